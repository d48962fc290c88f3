"""One mailing's part of the transaction that records what became of messages.

It locks the batches' rows, reads the messages' present statuses under those locks, and moves the
counts by (previous → new). Nearly every report says that a pending message was accepted: these are
applied by one conditional update, and only if that meets a surprise is the transaction begun again
the careful way, which reads first.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import Prepared
from shared.db.rows import one_row
from shared.db.status_changes import SHARDS, MinuteKey, minute_moves
from shared.domain.send_windows import Window, opens_at
from shared.domain.statuses import MessageStatus
from worker.recording.attempts import keep_attempts
from worker.recording.batch_report import BatchReport, RecordedBatch
from worker.recording.endings import Endings
from worker.recording.state_machine import MessageReport, MessageState, transition


class NeedsFullLock(Exception):
    """The transaction must begin again, reading before it writes, with more locks."""

    def __init__(self, mailing_id: int, batches: set[int], lock_mailing: bool):
        self.mailing_id, self.batches, self.lock_mailing = mailing_id, batches, lock_mailing


@dataclass(slots=True)
class LockPlan:
    """What the careful way has learned it must lock."""

    careful: bool = False
    batches: set[int] = field(default_factory=set)
    lock_mailing: bool = False


LOCK_MAILING = "SELECT settled FROM mailings WHERE id = %s FOR NO KEY UPDATE"
SHARE_WINDOW = "SELECT window_from, window_to, now() FROM mailings WHERE id = %s FOR SHARE"
LOCK = Prepared(
    "lock_batches",
    """
SELECT id, token, flush, timezone, pending FROM batches
WHERE mailing_id = %(mailing)s AND id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE
""",
)
# A batch's accepted messages, by a range of ids: `ats` has an instant for each id, 0 for those that
# are not meant. That takes PostgreSQL a quarter less than a join with a list of ids.
ACCEPT = Prepared(
    "accept",
    """
UPDATE messages m SET status = 'sent', attempts = attempts + 1,
    sent_at = to_timestamp((%(ats)s::float8[])[m.id - %(first)s + 1])
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND (%(ats)s::float8[])[m.id - %(first)s + 1] > 0
    AND m.status = 'pending' AND NOT m.in_doubt
""",
)
# Where more of a range than this would be left out, the careful way asks for each message.
MOST_HOLES = 1_000
READ = """
SELECT id, batch_id, client_id, status, attempts, in_doubt, reason FROM messages
WHERE mailing_id = %s AND id = ANY (%s::bigint[]) ORDER BY id
"""
WRITE = """
UPDATE messages m SET status = r.status::message_status, attempts = r.attempts,
    in_doubt = r.in_doubt, reason = r.reason, sent_at = to_timestamp(r.sent_at)
FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::bool[], %s::text[], %s::float8[])
    AS r (id, status, attempts, in_doubt, reason, sent_at)
WHERE m.mailing_id = %s AND m.id BETWEEN %s AND %s AND m.id = r.id
"""
BATCHES = Prepared(
    "count_batches",
    """
UPDATE batches b SET pending = b.pending + t.pending, sent = b.sent + t.sent,
    failed = b.failed + t.failed, expired = b.expired + t.expired,
    cancelled = b.cancelled + t.cancelled, in_doubt = b.in_doubt + t.in_doubt,
    has_attempts = b.has_attempts OR t.has_attempts,
    flush = CASE WHEN t.held THEN t.flush ELSE b.flush END,
    attempt = b.attempt + t.backoff::int,
    leased_until = CASE WHEN NOT t.held THEN b.leased_until WHEN t.released THEN NULL
        ELSE now() + %(lease)s * interval '1 second' END,
    retry_at = CASE WHEN b.pending + t.pending = 0 THEN NULL
        WHEN t.held AND t.released THEN CASE WHEN t.backoff THEN now() + t.delay END
        ELSE b.retry_at END,
    due_at = CASE WHEN b.pending + t.pending = 0 THEN NULL
        WHEN t.held AND t.released THEN coalesce(t.opens, now() + t.delay) ELSE b.due_at END
FROM (
    SELECT id, pending, sent, failed, expired, cancelled, in_doubt, has_attempts, held, flush,
        released, backoff, delay * interval '1 second' AS delay, opens
    FROM unnest(%(id)s::bigint[], %(pending)s::int[], %(sent)s::int[], %(failed)s::int[],
        %(expired)s::int[], %(cancelled)s::int[], %(in_doubt)s::int[], %(has_attempts)s::bool[],
        %(held)s::bool[], %(flush)s::int[], %(released)s::bool[], %(backoff)s::bool[],
        %(delay)s::float8[], %(opens)s::timestamptz[])
        AS t (id, pending, sent, failed, expired, cancelled, in_doubt, has_attempts, held, flush,
            released, backoff, delay, opens)
) t
WHERE b.mailing_id = %(mailing)s AND b.id = t.id
RETURNING b.id, b.pending, CASE WHEN t.held AND t.released THEN b.due_at END
""",
)
TOTALS = """
UPDATE mailings SET sent = sent + %s, failed = failed + %s, expired = expired + %s,
    cancelled = cancelled + %s, in_doubt = in_doubt + %s
WHERE id = %s
"""


class MailingRecorder:
    """One mailing's part of the transaction."""

    def __init__(
        self, cursor: Cursor, mailing_id: int, plan: LockPlan, minutes: Counter[MinuteKey]
    ):
        self.cursor, self.mailing_id, self.plan, self.minutes = cursor, mailing_id, plan, minutes
        self.deltas: dict[int, Counter[str]] = {}
        self.held: dict[int, bool] = {}
        self.zones: dict[int, str] = {}
        self.endings = Endings(cursor, mailing_id)
        self.before: dict[int, RecordedBatch] = {}
        self.settled = False

    def apply(
        self, flushes: list[BatchReport], lease_seconds: float, max_attempts: int
    ) -> dict[tuple[int, int], RecordedBatch]:
        if self.plan.lock_mailing:
            self.cursor.execute(LOCK_MAILING, (self.mailing_id,))
            (self.settled,) = one_row(self.cursor)
        window, now = self._window(flushes)
        todo = self._lock(flushes)
        plain = [f for f in todo if self._is_plain(f)]
        careful = [f for f in todo if f not in plain]
        for flush in plain:
            self._accept(flush)
        self._reconsider(careful, max_attempts)
        results = self._count(todo, lease_seconds, window, now)
        if self.settled:
            self._move_totals()
        return {(self.mailing_id, b): recorded for b, recorded in (self.before | results).items()}

    def _window(self, flushes: list[BatchReport]) -> tuple[Window | None, datetime]:
        """The window as it stays until this transaction ends, if some batch waits for it."""
        if not any(f.release and f.release.wait_for_window for f in flushes):
            return None, datetime.now(UTC)
        self.cursor.execute(SHARE_WINDOW, (self.mailing_id,))
        start, end, now = one_row(self.cursor)
        return (Window(start, end) if start is not None else None), now

    def _lock(self, flushes: list[BatchReport]) -> list[BatchReport]:
        """Lock the batches; return the flushes that were not applied before."""
        ids = sorted({f.batch_id for f in flushes} | self.plan.batches)
        LOCK.run(self.cursor, {"mailing": self.mailing_id, "ids": _array(ids)})
        rows = {row[0]: row[1:] for row in self.cursor.fetchall()}
        todo = []
        for flush in flushes:
            token, number, self.zones[flush.batch_id], pending = rows[flush.batch_id]
            self.held[flush.batch_id] = token == flush.token
            self.before[flush.batch_id] = RecordedBatch(token == flush.token, pending)
            if token != flush.token or number < flush.number:
                todo.append(flush)
        for batch_id in rows:
            self.deltas[batch_id] = Counter()
            self.held.setdefault(batch_id, False)
        return todo

    def _is_plain(self, flush: BatchReport) -> bool:
        """Whether nothing is said but that messages were accepted, whose ids are close together."""
        if self.plan.careful or not self.held[flush.batch_id] or flush.message_reports:
            return False
        if not flush.accepted:
            return True
        ids = [id_ for id_, _ in flush.accepted]
        return max(ids) - min(ids) < len(ids) + MOST_HOLES

    def _accept(self, flush: BatchReport) -> None:
        """The hot way: what is pending and not in doubt becomes sent, in one statement."""
        if not flush.accepted:
            return
        ids = [id_ for id_, _ in flush.accepted]
        first, last = min(ids), max(ids)
        ats = [0.0] * (last - first + 1)
        for id_, at in flush.accepted:
            ats[id_ - first] = at
        place = {"mailing": self.mailing_id, "batch": flush.batch_id}
        ACCEPT.run(self.cursor, place | {"first": first, "last": last, "ats": _array(ats)})
        n = len(ids)
        if self.cursor.rowcount != n:
            raise NeedsFullLock(self.mailing_id, set(), lock_mailing=False)
        self.deltas[flush.batch_id].update({"pending": -n, "sent": n})
        for minute, count in Counter(int(at) // 60 for _, at in flush.accepted).items():
            key = MinuteKey(
                self.mailing_id,
                datetime.fromtimestamp(minute * 60, UTC),
                flush.batch_id % SHARDS,
                MessageStatus.SENT,
            )
            self.minutes[key] += count

    def _reconsider(self, flushes: list[BatchReport], max_attempts: int) -> None:
        """The careful way: read what each message is now, and apply the rules to that."""
        reports = [
            (flush, report)
            for flush in flushes
            for report in (
                *(MessageReport(id_, accepted_at=at) for id_, at in flush.accepted),
                *flush.message_reports,
            )
        ]
        if not reports:
            return
        ids = _array(report.message_id for _, report in reports)
        self.cursor.execute(READ, (self.mailing_id, ids))
        home: dict[int, int] = {}
        states: dict[int, MessageState] = {}
        for id_, batch_id, client_id, *state in self.cursor.fetchall():
            home[id_], states[id_] = batch_id, MessageState(*state)
            self.endings.clients[id_] = client_id
        strangers = set(home.values()) - self.deltas.keys()
        late = any(
            (report.accepted_at is not None or report.in_doubt)
            and states[report.message_id].status not in ("pending", "sent")
            for _, report in reports
        )
        if strangers or (late and not self.plan.lock_mailing):
            raise NeedsFullLock(self.mailing_id, strangers, lock_mailing=late)
        before = dict(states)
        for flush, report in reports:
            # A message that has moved to another batch since is no longer this worker's.
            fenced = self.held[flush.batch_id] and home[report.message_id] == flush.batch_id
            states[report.message_id] = transition(
                states[report.message_id], report, fenced, max_attempts
            )
        self._write(before, states, home)
        self._keep_attempts(
            [r for f, r in reports if r.attempt and self.held[f.batch_id]], before, home
        )

    def _write(
        self, before: dict[int, MessageState], after: dict[int, MessageState], home: dict[int, int]
    ) -> None:
        changed = [id_ for id_, state in after.items() if state is not before[id_]]
        if not changed:
            return
        self.endings.note(changed, before, after, home)
        now = datetime.now(UTC)
        for id_ in changed:
            old, new, batch_id = before[id_], after[id_], home[id_]
            delta = self.deltas[batch_id]
            if old.status != new.status:
                delta[old.status] -= 1
                delta[new.status] += 1
                at = now if new.sent_at is None else datetime.fromtimestamp(new.sent_at, UTC)
                self.minutes.update(
                    minute_moves(self.mailing_id, batch_id, at, old.status, new.status)
                )
            delta["in_doubt"] += new.in_doubt - old.in_doubt
        news = [after[id_] for id_ in changed]
        columns = [list(column) for column in zip(*news, strict=True)]
        status, attempts, in_doubt, reason, sent_at = columns
        self.cursor.execute(
            WRITE,
            (
                changed,
                [str(s) for s in status],
                attempts,
                in_doubt,
                [None if r is None else str(r) for r in reason],
                sent_at,
                self.mailing_id,
                min(changed),
                max(changed),
            ),
        )

    def _keep_attempts(
        self, reports: list[MessageReport], before: dict[int, MessageState], home: dict[int, int]
    ) -> None:
        if not reports:
            return
        rows = []
        for report in reports:
            row = report.attempt
            assert row is not None  # noqa: S101 (the caller's filter)
            if before[report.message_id].status != MessageStatus.PENDING:
                # It ended while the request was out: the client may have been erased since.
                row = row._replace(phone=None, text=None)
            rows.append((report.message_id, *row))
            # Where the message is now: that is where it is read again for a retry.
            self.deltas[home[report.message_id]]["has_attempts"] = 1
        keep_attempts(self.cursor, self.mailing_id, rows)

    def _count(
        self, flushes: list[BatchReport], lease_seconds: float, window: Window | None, now: datetime
    ) -> dict[int, RecordedBatch]:
        by_batch = {f.batch_id: f for f in flushes}
        touched = [b for b in sorted(self.deltas) if b in by_batch or any(self.deltas[b].values())]
        if not touched:
            return {}
        releases = [by_batch[b].release if b in by_batch else None for b in touched]
        columns: dict[str, list[Any]] = {
            name: [self.deltas[b][name] for b in touched]
            for name in ("pending", "sent", "failed", "expired", "cancelled", "in_doubt")
        }
        columns |= {
            "id": touched,
            "has_attempts": [bool(self.deltas[b]["has_attempts"]) for b in touched],
            "held": [self.held[b] for b in touched],
            "flush": [by_batch[b].number if b in by_batch else 0 for b in touched],
            "released": [r is not None for r in releases],
            "backoff": [r is not None and r.backoff for r in releases],
            "delay": [r.delay if r is not None else 0.0 for r in releases],
            "opens": [
                opens_at(window, self.zones[b], now)
                if r is not None and r.wait_for_window
                else None
                for b, r in zip(touched, releases, strict=True)
            ],
        }
        arrays = {name: _array(column) for name, column in columns.items()}
        BATCHES.run(self.cursor, arrays | {"mailing": self.mailing_id, "lease": lease_seconds})
        return {
            batch_id: RecordedBatch(self.held[batch_id], pending, due_at)
            for batch_id, pending, due_at in self.cursor.fetchall()
        }

    def _move_totals(self) -> None:
        """A settled mailing's totals are frozen on its row: what comes late moves them."""
        names = ("sent", "failed", "expired", "cancelled", "in_doubt")
        moved = [sum(delta[name] for delta in self.deltas.values()) for name in names]
        self.cursor.execute(TOTALS, (*moved, self.mailing_id))


def _array(values: Iterable[float | datetime | None]) -> str:
    """An array as PostgreSQL reads it: shorter to parse than an expression of as many constants."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: float | datetime | None) -> str:
    if value is None:
        return "NULL"
    return value.isoformat() if isinstance(value, datetime) else repr(value)
