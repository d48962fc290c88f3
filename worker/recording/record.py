"""Records what became of messages: the transaction that keeps the books true."""

from collections import Counter
from collections.abc import Sequence

from shared.db.status_changes import MinuteKey, count_minutes
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.transaction import LockPlan, MailingRecorder, NeedsFullLock
from worker.runtime.database import Database


def record_reports(
    db: Database, flushes: Sequence[BatchReport], lease_seconds: float, max_attempts: int
) -> dict[tuple[int, int], RecordedBatch]:
    """Apply the flushes in one transaction; return each batch's state by (mailing, batch) id.

    Raises DatabaseError: then either nothing or all of it was applied, and repeating is right.
    """
    plans: dict[int, LockPlan] = {}
    by_mailing: dict[int, list[BatchReport]] = {}
    for flush in flushes:
        by_mailing.setdefault(flush.mailing_id, []).append(flush)
    while True:
        try:
            with db.transaction() as cursor:
                results: dict[tuple[int, int], RecordedBatch] = {}
                minutes: Counter[MinuteKey] = Counter()
                for mailing_id in sorted(by_mailing):
                    page = MailingRecorder(
                        cursor, mailing_id, plans.get(mailing_id, LockPlan()), minutes
                    )
                    results |= page.apply(by_mailing[mailing_id], lease_seconds, max_attempts)
                count_minutes(cursor, minutes)
            return results
        except NeedsFullLock as redo:
            plan = plans.setdefault(redo.mailing_id, LockPlan())
            plan.careful = True
            plan.batches |= redo.batches
            plan.lock_mailing |= redo.lock_mailing
