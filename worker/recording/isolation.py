"""Record reports although some of them cannot be recorded.

A flush holds the outcomes of many batches. One that PostgreSQL refuses, or that meets a defect,
must not keep the others from being recorded for good. It is found by recording halves of the flush
in transactions that are rolled back, and left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import structlog

from shared.db.connections import TRANSIENT_ERRORS
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.record import record_reports
from worker.recording.state_machine import MessageReport
from worker.runtime.database import Database

log = structlog.get_logger()

FIND_CLIENT = "SELECT client_id FROM messages WHERE mailing_id = %s AND id = %s"


class ReportedOutcome(NamedTuple):
    """One message's outcome in the report with this index."""

    report: int
    outcome: MessageReport

    def simplify(self) -> "ReportedOutcome":
        """Return an outcome of ids only: the message may have been sent."""
        doubt = MessageReport(self.outcome.message_id, counts_attempt=True, in_doubt=True)
        return ReportedOutcome(self.report, doubt)


def record_or_isolate(
    db: Database, reports: Sequence[BatchReport], lease_seconds: float, max_attempts: int
) -> dict[tuple[int, int], RecordedBatch]:
    """Record the reports as `record_reports` does, without what cannot be recorded.

    The messages left out are in doubt, or unchanged if that cannot be recorded either. A batch
    without a result is one of which nothing can be recorded.
    """
    try:
        return record_reports(db, reports, lease_seconds, max_attempts)
    except TRANSIENT_ERRORS:
        raise
    except Exception as error:
        mailing_ids = sorted({report.mailing_id for report in reports})
        log.error("record.refused", mailing_ids=mailing_ids, exc_info=error)
    isolation = Isolation(db, reports, lease_seconds, max_attempts)
    return record_reports(db, isolation.find_recordable(), lease_seconds, max_attempts)


class Isolation:
    """Finds what of some reports can be recorded. Raises DatabaseError in an outage."""

    def __init__(
        self, db: Database, reports: Sequence[BatchReport], lease_seconds: float, max_attempts: int
    ):
        self._db, self._reports = db, reports
        self._lease_seconds, self._max_attempts = lease_seconds, max_attempts

    def find_recordable(self) -> list[BatchReport]:
        """Return the reports without the batches and outcomes that cannot be recorded."""
        batches = [i for i in range(len(self._reports)) if self._is_recordable({i: []})]
        for i in set(range(len(self._reports))).difference(batches):
            place = self._reports[i]
            log.error("batch.unrecordable", mailing_id=place.mailing_id, batch_id=place.batch_id)
        outcomes = [each for i in batches for each in self._outcomes(i)]
        refused = self._find_refused(outcomes)
        left = [each for each in outcomes if each not in refused]
        for each in refused:
            place = self._reports[each.report]
            log.error(
                "message.unrecordable",
                mailing_id=place.mailing_id,
                batch_id=place.batch_id,
                message_id=each.outcome.message_id,
                client_id=self._find_client(place.mailing_id, each.outcome.message_id),
            )
            if self._is_recordable(_group([each.simplify()])):
                left.append(each.simplify())
        grouped = _group(left)
        return [self._make_report(i, grouped.get(i, [])) for i in batches]

    def _outcomes(self, i: int) -> list[ReportedOutcome]:
        report = self._reports[i]
        accepted = (MessageReport(id_, accepted_at=at) for id_, at in report.accepted)
        return [ReportedOutcome(i, each) for each in (*accepted, *report.message_reports)]

    def _find_refused(self, outcomes: list[ReportedOutcome]) -> list[ReportedOutcome]:
        if not outcomes or self._is_recordable(_group(outcomes)):
            return []
        if len(outcomes) == 1:
            return outcomes
        middle = len(outcomes) // 2
        return self._find_refused(outcomes[:middle]) + self._find_refused(outcomes[middle:])

    def _find_client(self, mailing_id: int, message_id: int) -> int | None:
        """Return the id of a message's client; None if there is no such message."""
        with self._db.transaction() as cursor:
            cursor.execute(FIND_CLIENT, (mailing_id, message_id))
            row = cursor.fetchone()
        return row[0] if row else None

    def _is_recordable(self, outcomes: dict[int, list[MessageReport]]) -> bool:
        reports = [self._make_report(i, each) for i, each in outcomes.items()]
        try:
            record_reports(
                self._db, reports, self._lease_seconds, self._max_attempts, roll_back=True
            )
        except TRANSIENT_ERRORS:
            raise
        except Exception:  # whatever it is: the caller reports what cannot be recorded
            return False
        return True

    def _make_report(self, i: int, outcomes: list[MessageReport]) -> BatchReport:
        report = self._reports[i]
        accepted = [
            (each.message_id, each.accepted_at) for each in outcomes if each.accepted_at is not None
        ]
        others = [each for each in outcomes if each.accepted_at is None]
        return BatchReport(
            report.mailing_id,
            report.batch_id,
            report.token,
            report.number,
            accepted,
            others,
            report.release,
            report.last,
            text_segments=report.text_segments,
            segments=report.segments,
            answer_round=report.answer_round,
        )


def _group(outcomes: list[ReportedOutcome]) -> dict[int, list[MessageReport]]:
    grouped: dict[int, list[MessageReport]] = {}
    for i, outcome in outcomes:
        grouped.setdefault(i, []).append(outcome)
    return grouped
