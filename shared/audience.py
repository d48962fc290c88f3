"""Who a mailing's filter chooses: one condition, shared by launch and preview."""

from collections.abc import Sequence

# On `clients`; an empty list means "any". PostgreSQL folds the constant comparisons away, so that
# the indexes on operator code and tag serve.
MATCHES = """
deleted_at IS NULL
    AND (%(operator_codes)s::text[] = '{}' OR operator_code = ANY (%(operator_codes)s::text[]))
    AND (%(tags)s::text[] = '{}' OR tag = ANY (%(tags)s::text[]))
"""


def match_values(operator_codes: Sequence[str], tags: Sequence[str]) -> dict[str, object]:
    """The values that MATCHES takes."""
    return {"operator_codes": list(operator_codes), "tags": list(tags)}
