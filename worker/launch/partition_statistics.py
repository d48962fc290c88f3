"""Refresh the planner's statistics of partitions that launches fill in bulk.

Autovacuum would do so within a minute. Until then plans that were made for an empty partition would
be kept, and would read as a whole what has grown since.
"""

from shared.db.rows import fetch_one_row
from worker.runtime.database import Database

# A partition is analyzed when so many rows were added to it, and again when they have grown by this
# factor. A few rows change no plan, and analyzing costs more than launching a small mailing.
FIRST_ROWS = 5_000
GROWTH = 4

FIND_PARTITION = """
SELECT first_mailing_id FROM partition_ranges
WHERE %s BETWEEN first_mailing_id AND until_mailing_id - 1
"""


class RowCounter:
    """Counts rows that were added, to tell when statistics are to be refreshed."""

    def __init__(self) -> None:
        self._rows = self._analyzed = 0

    def add(self, rows: int) -> bool:
        """Count rows; return whether to analyze now."""
        self._rows += rows
        if self._rows < max(FIRST_ROWS, self._analyzed * GROWTH):
            return False
        self._analyzed = self._rows
        return True


def analyze_partition(db: Database, first_mailing_id: int) -> None:
    """Refresh the statistics of the messages and batches in a partition."""
    with db.transaction() as cursor:
        # A tenth of the usual sample suffices to choose between an index and a scan; the full one
        # would cost as much as launching 100,000 recipients.
        cursor.execute("SET LOCAL default_statistics_target = 10")
        tables = f"messages_p{first_mailing_id}, batches_p{first_mailing_id}"
        cursor.execute(f"ANALYZE (SKIP_LOCKED) {tables}")


def analyze_partition_of(db: Database, mailing_id: int) -> None:
    """Refresh the statistics of the partition that holds a mailing."""
    with db.transaction() as cursor:
        cursor.execute(FIND_PARTITION, (mailing_id,))
        (first_mailing_id,) = fetch_one_row(cursor)
    analyze_partition(db, first_mailing_id)
