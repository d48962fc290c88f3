"""Record the outcomes of messages in one transaction, which keeps every mailing's totals true."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.db.minute_counts import MinuteKey, add_minute_counts
from worker.recording.answer_counts import AnswerTally
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.settling import settle_finished
from worker.recording.transaction import LockPlan, MailingRecorder, NeedsFullLock
from worker.runtime.database import Database


class _RolledBack(Exception):
    """Ends a transaction whose changes were requested to be rolled back."""


def record_reports(
    db: Database,
    reports: Sequence[BatchReport],
    lease_seconds: float,
    max_attempts: int,
    *,
    roll_back: bool = False,
) -> dict[tuple[int, int], RecordedBatch]:
    """Apply the reports in one transaction; return each batch's state by (mailing, batch) id.

    Raises DatabaseError; then all or none of it was applied, and the same reports can be repeated.
    With `roll_back` nothing is changed: it only shows whether the reports can be recorded.
    """
    by_mailing: dict[int, list[BatchReport]] = defaultdict(list)
    for report in reports:
        by_mailing[report.mailing_id].append(report)
    plans = {mailing_id: LockPlan() for mailing_id in by_mailing}
    while True:
        results: dict[tuple[int, int], RecordedBatch] = {}
        try:
            with db.transaction() as cursor:
                minutes: Counter[MinuteKey] = Counter()
                answers = AnswerTally()
                for mailing_id in sorted(by_mailing):
                    plan = plans[mailing_id]
                    recorder = MailingRecorder(cursor, mailing_id, plan, minutes, answers)
                    results |= recorder.apply_reports(
                        by_mailing[mailing_id], lease_seconds, max_attempts
                    )
                answers.write(cursor)
                add_minute_counts(cursor, minutes)
                if finished := _find_finished(reports, results):
                    for mailing_id in settle_finished(cursor, finished):
                        for report in by_mailing[mailing_id]:
                            key = mailing_id, report.batch_id
                            results[key] = replace(results[key], settled=True)
                if roll_back:
                    raise _RolledBack
            return results
        except _RolledBack:
            return results
        except NeedsFullLock as needed:
            plans[needed.mailing_id] = needed.plan


def _find_finished(
    reports: Sequence[BatchReport], results: Mapping[tuple[int, int], RecordedBatch]
) -> set[int]:
    """Return the mailings that may have nothing left to do after these reports."""
    finished = {report.mailing_id for report in reports if report.last}
    return finished - {key[0] for key, recorded in results.items() if recorded.pending}
