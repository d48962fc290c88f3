"""Selects a mailing's audience: one SQL condition, shared by launch and preview."""

from collections.abc import Mapping, Sequence

import orjson

# A mailing's columns that AUDIENCE_CONDITION uses, in the order of `audience_parameters`.
FILTER_COLUMNS = (
    "operator_codes",
    "tags",
    "timezones",
    "attributes",
    "exclude_mailing_ids",
    "phones",
)
FILTER_COLUMN_LIST = ", ".join(FILTER_COLUMNS)

# A condition on `clients`; an empty parameter matches every client. PostgreSQL removes comparisons
# with constants while planning, so it can use the indexes on phone, operator code, tag and zone,
# and reads no messages if no mailing is excluded. The ids of excluded mailings are constants in the
# statement, so only their partitions are planned for.
AUDIENCE_CONDITION = """
deleted_at IS NULL
    AND (%(operator_codes)s::text[] = '{}' OR operator_code = ANY (%(operator_codes)s::text[]))
    AND (%(tags)s::text[] = '{}' OR tag = ANY (%(tags)s::text[]))
    AND (%(timezones)s::text[] = '{}' OR timezone = ANY (%(timezones)s::text[]))
    AND (%(attributes)s::jsonb = '{}' OR attributes @> %(attributes)s::jsonb)
    AND (%(phones)s::bigint[] = '{}' OR phone = ANY (%(phones)s::bigint[]))
    AND (%(exclude_mailing_ids)s::bigint[] = '{}' OR NOT EXISTS (
        SELECT FROM messages had
        WHERE had.mailing_id = ANY (%(exclude_mailing_ids)s::bigint[])
            AND had.client_id = clients.id AND had.status = 'sent'))
"""


def audience_parameters(
    operator_codes: Sequence[str],
    tags: Sequence[str],
    timezones: Sequence[str],
    attributes: Mapping[str, str],
    exclude_mailing_ids: Sequence[int],
    phones: Sequence[int],
) -> dict[str, object]:
    """Return the parameters of AUDIENCE_CONDITION."""
    return {
        "operator_codes": list(operator_codes),
        "tags": list(tags),
        "timezones": list(timezones),
        "attributes": orjson.dumps(dict(attributes)).decode(),
        "exclude_mailing_ids": list(exclude_mailing_ids),
        "phones": list(phones),
    }
