"""Record one mailing's reports within a transaction of the caller.

The batches' rows are locked, the messages' present statuses are read under those locks, and the
counts move by (previous → new). Nearly every report only lists pending messages that were accepted:
those are applied by one conditional update without reading first. If that update meets a message in
another state, the transaction is repeated with a LockPlan that reads first.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.mailing_counts import SETTLED_COUNTS
from shared.db.minute_counts import OPTED_OUT, MinuteKey, minute_changes
from shared.db.on_commit import log_messages_on_commit
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import Window, make_window, next_due
from shared.domain.statuses import MessageStatus, Reason
from worker.recording import queries
from worker.recording.answer_counts import AnswerTally
from worker.recording.batch_report import BatchRelease, BatchReport, RecordedBatch
from worker.recording.queries import format_array
from worker.recording.segment_counts import count_accepted, count_moved, find_segments
from worker.recording.state_machine import AttemptRecord, MessageReport, MessageState, transition

# A range of accepted ids with more ids missing than this is read before it is written.
MAX_MISSING_IDS = 1_000


class LockPlan(NamedTuple):
    """Whether to read messages before writing, and what to lock besides the reported batches."""

    read_first: bool = False
    batches: frozenset[int] = frozenset()
    lock_mailing: bool = False


class NeedsFullLock(Exception):
    """The transaction must be repeated with another plan for this mailing."""

    def __init__(self, mailing_id: int, plan: LockPlan):
        self.mailing_id, self.plan = mailing_id, plan


class WindowReading(NamedTuple):
    """A mailing's window, and the time of PostgreSQL's clock when it was read."""

    window: Window | None
    now: datetime


class StoredMessage(NamedTuple):
    """A message as it was read under its batch's lock."""

    read_at: datetime  # by PostgreSQL's clock
    batch_id: int
    client_id: int
    segments: int | None
    state: MessageState


class MailingRecorder:
    """Applies one mailing's batch reports; adds to `minutes` and `answers` what is counted last."""

    def __init__(
        self,
        cursor: Cursor,
        mailing_id: int,
        plan: LockPlan,
        minutes: Counter[MinuteKey],
        answers: AnswerTally,
    ):
        self.cursor, self.mailing_id, self.plan, self.minutes = cursor, mailing_id, plan, minutes
        self.answers = answers
        # By batch: the changes of its counts, whether the reporting worker holds it, its time zone.
        self.deltas: dict[int, Counter[str]] = {}
        self.held: dict[int, bool] = {}
        self.zones: dict[int, str] = {}
        self.recorded: dict[tuple[int, int], RecordedBatch] = {}

    def apply_reports(
        self, reports: list[BatchReport], lease_seconds: float, max_attempts: int
    ) -> dict[tuple[int, int], RecordedBatch]:
        """Apply the reports; return each batch by (mailing, batch) id. Raises NeedsFullLock."""
        settled = False
        if self.plan.lock_mailing:
            self.cursor.execute(queries.LOCK_MAILING, (self.mailing_id,))
            (settled,) = fetch_one_row(self.cursor)
        window = self._read_window(reports)
        new_reports = self._lock_batches(reports)
        read_first = [r for r in new_reports if not self._accept_unread(r)]
        self._apply_rules(read_first, max_attempts)
        self._update_batches(new_reports, lease_seconds, window)
        if settled:
            self._update_totals()
        return self.recorded

    def _read_window(self, reports: list[BatchReport]) -> WindowReading | None:
        """Read the mailing's window and lock it, if a batch is to wait for it."""
        if not any(r.release and r.release.wait_for_window for r in reports):
            return None
        self.cursor.execute(queries.SHARE_WINDOW, (self.mailing_id,))
        row = self.cursor.fetchone()
        if row is None:
            return None  # lost in a failover
        start, end, now = row
        return WindowReading(make_window(start, end), now)

    def _lock_batches(self, reports: list[BatchReport]) -> list[BatchReport]:
        """Lock the batches; return the reports that have not been applied before.

        A batch that does not exist was lost in a failover: its report changes nothing.
        """
        ids = format_array(sorted({r.batch_id for r in reports} | self.plan.batches))
        queries.LOCK_BATCHES.run(self.cursor, {"mailing": self.mailing_id, "ids": ids})
        rows = {row[0]: row[1:] for row in self.cursor.fetchall()}
        self.deltas = {batch_id: Counter() for batch_id in rows}
        self.held = dict.fromkeys(rows, False)
        new_reports = []
        for report in reports:
            batch_id = report.batch_id
            if batch_id not in rows:
                self.recorded[self.mailing_id, batch_id] = RecordedBatch(False, 0)
                continue
            token, number, self.zones[batch_id], pending = rows[batch_id]
            held = self.held[batch_id] = token == report.token
            self.recorded[self.mailing_id, batch_id] = RecordedBatch(held, pending)
            if not held or number < report.number:
                new_reports.append(report)
                if held:
                    self.answers.add(report)
        return new_reports

    def _accept_unread(self, report: BatchReport) -> bool:
        """Apply a report that lists nothing but acceptances, by one statement.

        Returns False, and does nothing, if the messages must be read first.
        """
        if self.plan.read_first or not self.held[report.batch_id] or report.message_reports:
            return False
        if not report.accepted:
            return True
        ids = [id_ for id_, _ in report.accepted]
        first, last, count = min(ids), max(ids), len(ids)
        if last - first >= count + MAX_MISSING_IDS:
            return False
        if report.text_segments is None and not report.segments.keys() >= set(ids):
            return False
        times = [0.0] * (last - first + 1)
        for id_, at in report.accepted:
            times[id_ - first] = at
        place = {"mailing": self.mailing_id, "batch": report.batch_id}
        values = {"first": first, "last": last, "times": format_array(times)}
        if report.text_segments is None:
            values["segments"] = format_array(map(report.segments.get, range(first, last + 1)))
            queries.ACCEPT_PERSONAL_MESSAGES.run(self.cursor, place | values)
        else:
            queries.ACCEPT_MESSAGES.run(self.cursor, place | values)
        if self.cursor.rowcount != count:
            raise NeedsFullLock(self.mailing_id, self.plan._replace(read_first=True))
        count_accepted(report, self.deltas[report.batch_id], self.minutes)
        return True

    def _apply_rules(self, batch_reports: list[BatchReport], max_attempts: int) -> None:
        """Read each reported message and apply the state machine to it."""
        reports = [
            (batch, report)
            for batch in batch_reports
            for report in (
                *(MessageReport(id_, accepted_at=at) for id_, at in batch.accepted),
                *batch.message_reports,
            )
        ]
        if not reports:
            return
        stored = self._read_messages([report for _, report in reports])
        reports = [(batch, report) for batch, report in reports if report.message_id in stored]
        states = {id_: message.state for id_, message in stored.items()}
        for batch, report in reports:
            id_ = report.message_id
            # A message that has moved to another batch is not this worker's any more.
            fenced = self.held[batch.batch_id] and stored[id_].batch_id == batch.batch_id
            states[id_] = transition(states[id_], report, fenced, max_attempts)
        counted = {id_: message.segments for id_, message in stored.items()}
        charged = {id_ for id_, new in states.items() if new.charged}
        segments = find_segments(self.cursor, self.mailing_id, reports, counted, charged)
        self._update_messages(stored, states, segments)
        attempts = [
            (report.message_id, report.attempt)
            for batch, report in reports
            if report.attempt is not None and self.held[batch.batch_id]
        ]
        if attempts:
            self._insert_attempts(attempts, stored)

    def _read_messages(self, reports: list[MessageReport]) -> dict[int, StoredMessage]:
        """Read the reported messages. Raises NeedsFullLock if some lock is missing."""
        ids = format_array(report.message_id for report in reports)
        self.cursor.execute(queries.READ_MESSAGES, (self.mailing_id, ids))
        stored = {
            id_: StoredMessage(now, batch_id, client_id, segments, MessageState(*state))
            for now, id_, batch_id, client_id, segments, *state in self.cursor.fetchall()
        }
        unlocked = {message.batch_id for message in stored.values()} - self.deltas.keys()
        # A message that has ended may belong to a settled mailing, whose totals then change.
        late = any(
            (report.accepted_at is not None or report.in_doubt)
            and stored[report.message_id].state.status not in ("pending", "sent")
            for report in reports
            if report.message_id in stored
        )
        if unlocked or (late and not self.plan.lock_mailing):
            plan = LockPlan(True, self.plan.batches | unlocked, self.plan.lock_mailing or late)
            raise NeedsFullLock(self.mailing_id, plan)
        return stored

    def _update_messages(
        self,
        stored: Mapping[int, StoredMessage],
        states: Mapping[int, MessageState],
        segments: Mapping[int, int],
    ) -> None:
        changed = {id_: new for id_, new in states.items() if new is not stored[id_].state}
        if not changed:
            return
        ended: dict[tuple[int, str, str | None], list[tuple[int, int]]] = {}
        for id_, new in changed.items():
            now, batch_id, client_id, counted, old = stored[id_]
            delta = self.deltas[batch_id]
            delta["in_doubt"] += new.in_doubt - old.in_doubt
            at = now if new.sent_at is None else datetime.fromtimestamp(new.sent_at, UTC)
            for what, n in count_moved(old, new, counted or 0, segments.get(id_, 0)):
                delta[what] += n
                self.minutes[MinuteKey(self.mailing_id, at, what)] += n
            if old.status == new.status:
                continue
            delta[old.status] -= 1
            delta[new.status] += 1
            if opted_out := _has_opted_out(new) - _has_opted_out(old):
                delta["cancelled_opted_out"] += opted_out
                self.minutes[MinuteKey(self.mailing_id, at, OPTED_OUT)] += opted_out
            self.minutes.update(minute_changes(self.mailing_id, at, old.status, new.status))
            # The log line of its attempt reports that a pending message was accepted.
            if (old.status, new.status) != ("pending", "sent"):
                key = batch_id, new.status, new.reason
                ended.setdefault(key, []).append((id_, client_id))
        for (batch_id, status, reason), pairs in ended.items():
            place = {"mailing_id": self.mailing_id, "batch_id": batch_id, "reason": reason}
            ids, clients = zip(*pairs, strict=True)
            log_messages_on_commit(self.cursor, f"message.{status}", ids, clients, **place)
        rows = [
            (id_, str(s.status), *s[1:3], s.reason and str(s.reason), s.sent_at, segments.get(id_))
            for id_, s in changed.items()
        ]
        columns = map(list, zip(*rows, strict=True))
        bounds = self.mailing_id, min(changed), max(changed)
        self.cursor.execute(queries.UPDATE_MESSAGES, (*columns, *bounds))

    def _insert_attempts(
        self, attempts: list[tuple[int, AttemptRecord]], stored: Mapping[int, StoredMessage]
    ) -> None:
        rows = []
        for message_id, attempt in attempts:
            message = stored[message_id]
            if message.state.status != MessageStatus.PENDING:
                # The message ended during the request: the client may have been erased since.
                attempt = attempt._replace(phone=None, text=None)
            rows.append((message_id, *attempt))
            # The batch that holds the message now reads its attempts for a retry.
            self.deltas[message.batch_id]["has_attempts"] = 1
        columns = map(list, zip(*rows, strict=True))
        self.cursor.execute(queries.INSERT_ATTEMPTS, (self.mailing_id, *columns))

    def _update_batches(
        self, reports: list[BatchReport], lease_seconds: float, reading: WindowReading | None
    ) -> None:
        """Move the counts of the batches; renew or end the leases of those reported."""
        by_batch = {report.batch_id: report for report in reports}
        rows: list[tuple[Any, ...]] = []
        for batch_id, delta in sorted(self.deltas.items()):
            report = by_batch.get(batch_id)
            if report is None and not any(delta.values()):
                continue
            number, release = (report.number, report.release) if report else (0, None)
            delay, backoff, wait_for_window = release or BatchRelease()
            opens = None
            if wait_for_window and reading is not None:
                opens = next_due(reading.window, self.zones[batch_id], reading.now)
            counts = [delta[name] for name in queries.BATCH_COUNTS]
            lease = self.held[batch_id], number, release is not None, backoff, delay, opens
            rows.append((batch_id, *counts, bool(delta["has_attempts"]), *lease))
        if not rows:
            return
        columns = map(format_array, zip(*rows, strict=True))
        arrays = dict(zip(queries.BATCH_COLUMNS, columns, strict=True))
        values: dict[str, object] = {"mailing": self.mailing_id, "lease": lease_seconds}
        queries.UPDATE_BATCHES.run(self.cursor, values | arrays)
        for batch_id, pending, due_at in self.cursor.fetchall():
            recorded = RecordedBatch(self.held[batch_id], pending, due_at)
            self.recorded[self.mailing_id, batch_id] = recorded
            if opted_out := self.deltas[batch_id]["cancelled_opted_out"]:
                place = self.mailing_id, batch_id
                self.cursor.execute(queries.ADD_OPTED_OUT, (opted_out, *place))

    def _update_totals(self) -> None:
        """Move the totals of a settled mailing, which are frozen in its row."""
        moved = [sum(delta[name] for delta in self.deltas.values()) for name in SETTLED_COUNTS]
        self.cursor.execute(queries.UPDATE_TOTALS, (*moved, self.mailing_id))


def _has_opted_out(state: MessageState) -> bool:
    return state.status == MessageStatus.CANCELLED and state.reason == Reason.OPTED_OUT
