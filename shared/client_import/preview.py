"""Counts what the merge of a draft's rows would do, without changing a client."""

from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.client_import.merge import CHANGED, INDEX, import_statement
from shared.db.rows import fetch_one_row

TOTALS = "SELECT rows_total, rejected FROM imports WHERE id = %(import)s"
COUNT = f"""
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (phone) * FROM {{waiting}} ORDER BY phone, line DESC
)
SELECT count(*), count(c.id), count(*) FILTER (WHERE c.id IS NOT NULL AND {CHANGED})
FROM latest r LEFT JOIN clients c ON c.phone = r.phone
"""  # noqa: S608 (constants)
COUNT_DIFFERING = """
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (phone) * FROM {waiting} ORDER BY phone, line DESC
)
SELECT count(*) FROM {waiting} r JOIN latest l USING (phone)
WHERE r.line < l.line AND (r.operator_code, r.tag, r.timezone, r.attributes)
    IS DISTINCT FROM (l.operator_code, l.tag, l.timezone, l.attributes)
"""


class MergePreview(NamedTuple):
    """How many rows would create or update clients, change nothing, or be rejected.

    `repeated` of the rejected ones are followed by a row with the same phone and other values.
    """

    rows: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    repeated: int


def preview_merge(cursor: Cursor, import_id: int) -> MergePreview:
    """Count the rows of a draft by what would become of them now."""
    cursor.execute(import_statement(INDEX, import_id))  # the merge uses it later
    cursor.execute(TOTALS, {"import": import_id})
    rows, rejected = fetch_one_row(cursor)
    cursor.execute(import_statement(COUNT, import_id))
    phones, known, updated = fetch_one_row(cursor)
    repeated = 0
    if phones < rows - rejected:
        cursor.execute(import_statement(COUNT_DIFFERING, import_id))
        (repeated,) = fetch_one_row(cursor)
    created = phones - known
    unchanged = rows - rejected - repeated - created - updated
    return MergePreview(rows, created, updated, unchanged, rejected + repeated, repeated)
