"""Selects a mailing's audience: one SQL condition, shared by launch and preview."""

from collections.abc import Mapping, Sequence

import orjson
from psycopg2.extensions import AsIs

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
# with constants while planning, so it can use the indexes on phone, operator code, tag and zone.
AUDIENCE_CONDITION = """
deleted_at IS NULL
    AND (%(operator_codes)s::text[] = '{}' OR operator_code = ANY (%(operator_codes)s::text[]))
    AND (%(tags)s::text[] = '{}' OR tag = ANY (%(tags)s::text[]))
    AND (%(timezones)s::text[] = '{}' OR timezone = ANY (%(timezones)s::text[]))
    AND (%(attributes)s::jsonb = '{}' OR attributes @> %(attributes)s::jsonb)
    AND (%(phones)s::bigint[] = '{}' OR phone = ANY (%(phones)s::bigint[]))
    AND %(not_excluded)s
"""
# Clients who were sent one of these mailings are left out. The condition stands alone, not in an
# OR, since PostgreSQL makes an anti join of it only then: one operation on two sets instead of a
# look-up for each client. The ids are constants, so that only their partitions are planned for.
NOT_EXCLUDED = """NOT EXISTS (
    SELECT FROM messages had
    WHERE had.mailing_id = ANY ('{{{ids}}}'::bigint[])
        AND had.client_id = clients.id AND had.status = 'sent'{within})"""


def audience_parameters(
    operator_codes: Sequence[str],
    tags: Sequence[str],
    timezones: Sequence[str],
    attributes: Mapping[str, str],
    exclude_mailing_ids: Sequence[int],
    phones: Sequence[int],
    *,
    client_ids: tuple[int, int] | None = None,
) -> dict[str, object]:
    """Return the parameters of AUDIENCE_CONDITION.

    A statement that reads only clients with ids above the first and up to the second of
    `client_ids` reads only their messages in excluded mailings.
    """
    within = ""
    if client_ids is not None:
        within = " AND had.client_id > {:d} AND had.client_id <= {:d}".format(*client_ids)
    ids = ",".join(f"{mailing_id:d}" for mailing_id in exclude_mailing_ids)
    return {
        "operator_codes": list(operator_codes),
        "tags": list(tags),
        "timezones": list(timezones),
        "attributes": orjson.dumps(dict(attributes)).decode(),
        "not_excluded": AsIs(NOT_EXCLUDED.format(ids=ids, within=within) if ids else "true"),
        "phones": list(phones),
    }
