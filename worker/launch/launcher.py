"""Launches a mailing: freezes its audience and has its messages and batches written.

The audience is the clients with an id up to the highest one at the launch's beginning, judged by
the filter once, chunk by chunk. Chunks are written at once, one on each connection, and committed
in the order of the clients' ids, each with the mailing's checkpoint; so a launch may die anywhere,
be repeated, or run twice. Sending begins after the first chunk.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from itertools import cycle
from typing import Any

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db.audience import FILTER_COLUMN_LIST
from shared.db.partitions import ensure_partition
from shared.db.rows import fetch_one_row
from worker.launch.chunks import (
    CHUNK_RECIPIENTS,
    Audience,
    Chunk,
    Span,
    Writing,
    write_chunk,
)
from worker.runtime.database import Database

log = structlog.get_logger()

# The first chunk is small, so that the first message leaves at once; then chunks grow while they
# stay short.
FIRST_SPAN = 2_000
NEXT_TURN_SPAN = 20_000
CHUNK_SECONDS = 0.2
# A launch longer than this gives way to the other jobs of its queue and goes on after them.
TURN_SECONDS = 0.5
# Between two turns, statistics are refreshed when the rows have grown by this factor.
ANALYZE_GROWTH = 4

# One launch of a mailing at a time, however many jobs ask for it. The books do not depend on it: a
# chunk that finds the checkpoint elsewhere comes to nothing.
ALONE = "SELECT pg_try_advisory_xact_lock(hashtext('launch'), hashint8(%s))"
TAKE_IDS = "SELECT take_ids('message_ids', %s)"
BEGIN = f"""
SELECT status, start_at <= now(), end_at <= now(), started_at IS NOT NULL, {FILTER_COLUMN_LIST}
FROM mailings WHERE id = %s FOR NO KEY UPDATE
"""  # noqa: S608 (COLUMNS is a constant)
FREEZE = """
UPDATE mailings SET started_at = now(), updated_at = now(),
    status = CASE status WHEN 'scheduled' THEN 'running' ELSE status END,
    launch_last_client_id = (SELECT coalesce(max(id), 0) FROM clients)
WHERE id = %s
"""
PROGRESS = """
SELECT audience_complete, launched_client_id, launch_last_client_id FROM mailings WHERE id = %s
"""
PARTITION = """
SELECT first_mailing_id FROM partition_ranges
WHERE %s BETWEEN first_mailing_id AND until_mailing_id - 1
"""


class Lane:
    """A connection with a thread of its own, which does what it is given one after the other."""

    def __init__(self, db: Database):
        self._db = db
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "Lane":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def do(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have `work` done with this connection; it logs with the caller's ids."""
        return self._thread.submit(copy_context().run, work, self._db, *args)


class Turn:
    """One turn of a launch: chunks in the order of their clients' ids, on all lanes at once."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        audience: Audience,
        batch_size: int,
        after: int,
        size: int,
        take_ids: Callable[[int], int],
    ):
        self._lanes = cycle(lanes)
        self._room = len(lanes)
        self._audience = audience
        self._batch_size = batch_size
        self._size = size
        self._take_ids = take_ids
        self._ends_at = time.monotonic() + TURN_SECONDS
        # Up to which client's id chunks were begun; those not yet seen through, each with the id
        # that it should reach; and the latest.
        self._reached = after
        self._writing: deque[tuple[int, Writing]] = deque()
        self._latest: Writing | None = None

    def chunks(self) -> Iterator[Chunk | None]:
        """Write chunks while the turn lasts; yields each when it is committed.

        None, the last then, says that no more is wanted. Raises DatabaseError.
        """
        # The first one is alone: nothing slows it down, and it shows how long they take.
        self._begin_chunk()
        while self._writing:
            until, writing = self._writing.popleft()
            chunk = writing.result()
            yield chunk
            if chunk is None:
                return
            if chunk.until < until:
                # Those begun after it will see that it fell short, and come to nothing.
                self._writing.clear()
                self._reached, self._latest = chunk.until, writing
            self._size = _next_size(chunk)
            while len(self._writing) < self._room and self._may_begin():
                self._begin_chunk()

    def _may_begin(self) -> bool:
        left = self._reached < self._audience.last_client_id
        return left and time.monotonic() < self._ends_at

    def _begin_chunk(self) -> None:
        after, last = self._reached, self._audience.last_client_id
        # Clients who are listed one by one are few, and are found by their phones in one go.
        until = last if self._audience.listed else min(after + self._size, last)
        # Messages' ids are taken here, so that they grow with each commit: whoever reads a mailing
        # from id to id finds what comes later behind what was there. What is left over is not used.
        first_message_id = self._take_ids(max(1, min(until - after, CHUNK_RECIPIENTS)))
        self._latest = next(self._lanes).do(
            write_chunk,
            self._audience,
            self._batch_size,
            Span(after, until, first_message_id),
            self._latest,
        )
        self._writing.append((until, self._latest))
        self._reached = until


def launch(
    guard: Database,
    connections: Sequence[Database],
    mailing_id: int,
    batch_size: int,
    wake: Callable[[], object],
) -> bool:
    """Launch for up to TURN_SECONDS; return whether something is left to do.

    As many chunks are written at once as there are `connections`; `guard` keeps other launches of
    the mailing away meanwhile: False if there is one already. `wake` is called when batches are
    ready to be sent. Raises DatabaseError; nothing is lost then.
    """
    with guard.transaction() as cursor:
        cursor.execute(ALONE, (mailing_id,))
        if not fetch_one_row(cursor)[0]:
            return False
        with connections[0].transaction() as beginning:
            begun = _begin(beginning, mailing_id)
            if begun is None:
                return False
        with connections[0].transaction() as beginning:
            ensure_partition(beginning, mailing_id)

        def take_ids(n: int) -> int:
            cursor.execute(TAKE_IDS, (n,))
            return int(fetch_one_row(cursor)[0])

        audience, after, size = begun
        with ExitStack() as stack:
            lanes = [stack.enter_context(Lane(db)) for db in connections]
            return _follow(
                Turn(lanes, audience, batch_size, after, size, take_ids), lanes[0], mailing_id, wake
            )


def _follow(turn: Turn, lane: Lane, mailing_id: int, wake: Callable[[], object]) -> bool:
    """Say what a turn writes, as it does; return whether something is left to do."""
    filled, analyzed, more = 0, 0, True
    analyses: list[Future[None]] = []
    for chunk in turn.chunks():
        if chunk is None:
            more = False
            break
        filled += chunk.recipients
        log.info(
            "launch.chunk",
            mailing_id=mailing_id,
            recipients=chunk.recipients,
            first_message_id=chunk.first_message_id,
            last_message_id=chunk.last_message_id,
            seconds=round(chunk.seconds, 3),
            audience_complete=chunk.audience_complete,
        )
        if chunk.recipients:
            wake()
        if filled > analyzed * ANALYZE_GROWTH:
            analyses.append(lane.do(_analyze, mailing_id))
            analyzed = filled
        more = not chunk.audience_complete
    for analysis in analyses:
        analysis.result()
    return more


def _begin(cursor: Cursor, mailing_id: int) -> tuple[Audience, int, int] | None:
    """Freeze the audience if the mailing's time has come.

    Returns it, the client's id up to which it is written, and the first chunk's size; None
    says that there is nothing to write.
    """
    cursor.execute(BEGIN, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    status, due, ended, launched, *columns = row
    if launched:
        if status not in ("running", "paused"):
            return None
    # One that was paused until its end never started; its audience is written all the same, so
    # that the books say who was not reached.
    elif (status == "scheduled" and due) or (status == "paused" and ended):
        cursor.execute(FREEZE, (mailing_id,))
        log.info("mailing.started", mailing_id=mailing_id)
    else:
        return None
    cursor.execute(PROGRESS, (mailing_id,))
    complete, after, last = fetch_one_row(cursor)
    if complete:
        return None
    size = NEXT_TURN_SPAN if launched else FIRST_SPAN
    return Audience(mailing_id, last, tuple(columns)), after, size


def _next_size(chunk: Chunk) -> int:
    """How many clients' ids the next chunk spans: as many as fit CHUNK_SECONDS."""
    growth = min(16.0, max(0.25, CHUNK_SECONDS / max(chunk.seconds, 0.001)))
    return max(FIRST_SPAN // 10, int((chunk.until - chunk.after) * growth))


def _analyze(db: Database, mailing_id: int) -> None:
    """Refresh the planner's picture of partitions that were filled in bulk."""
    with db.transaction() as cursor:
        cursor.execute(PARTITION, (mailing_id,))
        (first,) = fetch_one_row(cursor)
        # A tenth of the usual sample: that is enough to choose between an index and a scan, and
        # the full one would cost as much as launching 100,000 recipients.
        cursor.execute("SET LOCAL default_statistics_target = 10")
        cursor.execute(f"ANALYZE (SKIP_LOCKED) messages_p{first}, batches_p{first}")
