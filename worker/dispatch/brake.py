"""A dispatcher's part of the brake: it stops sending before the other workers' answers are known.

After each flush the answers of all workers are read, and a mailing whose rule is broken is paused
(worker/recording/braking.py). Between two flushes the dispatcher adds its own answers to what it
read last. If the sum breaks a mailing's rule, it holds the mailing's batches until the next flush
has shown whether the mailing is paused. While refusals are many it flushes more often.

Nothing here is called for each message that is accepted, nor for mailings without a rule.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from shared.domain.statuses import MailingStatus
from shared.domain.stop_rule import AnswerCounts, StopRule
from worker.dispatch.db_thread import DatabaseThread, log_database_error
from worker.dispatch.leased_batch import LeasedBatch
from worker.dispatch.state import DispatchState
from worker.recording.answer_counts import count_answers
from worker.recording.batch_report import BatchReport
from worker.recording.braking import Judgement, judge_answers

NO_ANSWERS = AnswerCounts()
Answers = dict[int, AnswerCounts]  # by mailing


class Brake:
    """Holds the batches of mailings whose rule is broken by the answers known here."""

    def __init__(self, db_thread: DatabaseThread, state: DispatchState):
        self._db_thread, self._state = db_thread, state
        self._judgements: dict[int, Judgement] = {}
        self._flushing: Answers = {}  # in the flush that is being recorded
        self._judging: deque[Answers] = deque()  # recorded, and not in what was read last
        self._refused: set[int] = set()  # the mailings refused since the last check
        self._held: set[int] = set()
        self.hurry = False  # refusals are many: flush sooner
        self.flush_now = False  # a mailing is held since the last flush

    def check(self) -> None:
        """Hold the mailings whose rule is broken by refusals since the last check."""
        if not self._refused:
            return
        for mailing_id in self._refused:
            self._check_mailing(mailing_id)
        self._refused.clear()

    def add_batch(self, batch: LeasedBatch) -> None:
        """Watch a batch that was just claimed; hold it if its mailing is held."""
        batch.refused_mailings = self._refused
        if batch.mailing_id in self._held:
            batch.hold()

    def start_flush(self, reports: Iterable[BatchReport]) -> None:
        """Keep the answers of the reports until the answers of all workers are read."""
        self.hurry = self.flush_now = False
        self._flushing = {}
        for report in reports:
            if report.answer_round is not None:
                known = self._flushing.get(report.mailing_id, NO_ANSWERS)
                self._flushing[report.mailing_id] = known.plus(count_answers(report))

    def end_flush(self) -> None:
        """Read the answers of all workers, after the reports were recorded."""
        if not self._flushing:
            return
        self._judging.append(self._flushing)
        self._flushing = {}
        self._db_thread.submit(self._on_judged, judge_answers, list(self._judging[-1]))

    def _on_judged(
        self, judgements: Mapping[int, Judgement] | None, error: Exception | None
    ) -> None:
        flushed = self._judging.popleft()
        if judgements is None:
            # A held mailing stays held: each flush judges it again.
            log_database_error("brake", error)
            return
        self._judgements = {
            mailing_id: judged
            for mailing_id, judged in self._judgements.items()
            if self._state.holds_mailing(mailing_id)
        } | dict(judgements)
        for mailing_id in flushed:
            judged = judgements.get(mailing_id)
            if judged is None or judged.status == MailingStatus.RUNNING:
                self._release(mailing_id)
                self._refused.add(mailing_id)  # more may have been refused meanwhile
            else:
                self._drain(mailing_id, judged.status)

    def _check_mailing(self, mailing_id: int) -> None:
        batches = [b for b in self._state.batches if b.mailing_id == mailing_id]
        rule = next((b.stop_rule for b in batches if b.stop_rule is not None), None)
        if rule is None:
            return
        own = self._flushing.get(mailing_id, NO_ANSWERS)
        for batch in batches:
            own = own.plus(batch.unreported_answers)
        unread = own
        for flushed in self._judging:
            unread = unread.plus(flushed.get(mailing_id, NO_ANSWERS))
        judged = self._judgements.get(mailing_id)
        counts = [
            unread.plus(judged.total if judged else NO_ANSWERS),
            unread.plus(judged.recent if judged else NO_ANSWERS),
        ]
        if any(map(rule.is_broken_by, counts)):
            self.flush_now = True
            self._held.add(mailing_id)
            for batch in batches:
                batch.hold()
        elif is_burst(rule, own) or any(map(rule.is_close_to, counts)):
            self.hurry = True

    def _release(self, mailing_id: int) -> None:
        if mailing_id in self._held:
            self._held.remove(mailing_id)
            for batch in self._state.batches:
                if batch.mailing_id == mailing_id:
                    batch.release_hold()

    def _drain(self, mailing_id: int, status: str) -> None:
        self._held.discard(mailing_id)
        for batch in self._state.batches:
            if batch.mailing_id == mailing_id:
                batch.drain(status)


def is_burst(rule: StopRule, own: AnswerCounts) -> bool:
    """Return whether half of a rule's share was refused since the last flush, of however many."""
    return own.refused > 0 and 2 * own.refused >= rule.refused_share * own.answers
