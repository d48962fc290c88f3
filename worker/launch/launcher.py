"""Launch a mailing: freeze its audience and write its messages and batches.

The audience is the clients up to the highest id at the launch's beginning. The filter judges each
client once, chunk by chunk. Several chunks are written at once, one on each connection, and
committed in the order of the clients' ids, each with the mailing's checkpoint; so a launch may be
interrupted anywhere, be repeated, or run twice. Sending begins after the first chunk.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db.audience import FILTER_COLUMN_LIST
from shared.db.batch_conditions import LAUNCH_DUE, OVER_LIMIT
from shared.db.partitions import ensure_partition
from shared.db.policy import CURRENT_POLICY
from shared.db.rows import fetch_one_row
from shared.tracing import record_step
from worker.launch.chunks import (
    CHUNK_RECIPIENTS,
    Chunk,
    ClientRange,
    Launch,
    PendingChunk,
    log_over_limit,
    write_chunk,
)
from worker.launch.partition_statistics import RowCounter, analyze_partition_of
from worker.runtime.database import ConnectionThread, Database

log = structlog.get_logger()

# A launch longer than this gives way to the other jobs of its queue and continues after them.
SLICE_SECONDS = 0.5
# Client ids in the first chunk of a launch, which is small so that the first message leaves at
# once, and of a later slice. The sizes of the other chunks follow CHUNK_SECONDS.
FIRST_CHUNK_IDS = 2_000
NEXT_SLICE_CHUNK_IDS = 20_000
CHUNK_SECONDS = 0.2

# One launch of a mailing at a time, however many jobs request it. This saves work; the totals do
# not depend on it, since a chunk that does not begin at the checkpoint is rolled back.
TRY_LOCK_LAUNCH = "SELECT pg_try_advisory_xact_lock(hashtext('launch'), hashint8(%s))"
TAKE_MESSAGE_IDS = "SELECT take_ids('message_ids', %s)"
LOCK_MAILING = f"""
SELECT status, {LAUNCH_DUE}, end_at <= now(), {OVER_LIMIT}, started_at IS NOT NULL,
    {FILTER_COLUMN_LIST}
FROM mailings m WHERE id = %s FOR NO KEY UPDATE OF m
"""  # noqa: S608 (constants)
FREEZE_AUDIENCE = f"""
UPDATE mailings m SET started_at = now(), updated_at = now(),
    status = CASE status WHEN 'scheduled' THEN 'running' ELSE status END,
    launch_last_client_id = (SELECT coalesce(max(id), 0) FROM clients),
    policy_version = policy.version,
    audience_limit = least(m.max_audience, policy.max_audience)
FROM {CURRENT_POLICY} AS policy WHERE m.id = %s
"""  # noqa: S608
READ_CHECKPOINT = """
SELECT audience_complete, launched_client_id, launch_last_client_id FROM mailings WHERE id = %s
"""


@dataclass
class LaunchSlice:
    """Writes chunks in the order of their clients' ids, on all threads at once, for a short time.

    `reached` is the highest client id of the chunks that were started, `size` the number of client
    ids in the next one. `take_message_ids(count)` returns the first of `count` reserved ids.
    """

    launch: Launch
    threads: Sequence[ConnectionThread]
    reached: int
    size: int
    take_message_ids: Callable[[int], int]

    def __post_init__(self) -> None:
        self._ends_at = time.monotonic() + SLICE_SECONDS
        self._next_thread = cycle(self.threads)
        # The chunks whose result is not yet read, each with its highest client id; and the latest.
        self._pending: deque[tuple[int, PendingChunk]] = deque()
        self._latest: PendingChunk | None = None

    def run(self, on_batches_ready: Callable[[], object]) -> bool:
        """Write chunks until the slice ends; return whether something is left to do.

        Logs each chunk when it is committed. Raises DatabaseError.
        """
        rows = RowCounter()
        analyses: list[Future[None]] = []
        # The first one is written alone: nothing slows it, and its duration sets the next size.
        self._start_chunk()
        more = True
        while self._pending:
            until, pending = self._pending.popleft()
            chunk = pending.result()
            if chunk is None:
                more = False
                break
            more = not (chunk.audience_complete or chunk.over_limit)
            if chunk.until < until:
                # The chunk is shorter than requested: those started after it roll back.
                self._pending.clear()
                self.reached, self._latest = chunk.until, pending
            self.size = _next_size(chunk)
            self._log_chunk(chunk)
            if chunk.recipients:
                on_batches_ready()
            if rows.add(chunk.recipients):
                mailing_id = self.launch.mailing_id
                analyses.append(self.threads[0].submit(analyze_partition_of, mailing_id))
            while len(self._pending) < len(self.threads) and self._may_start():
                self._start_chunk()
        for analysis in analyses:
            analysis.result()
        return more

    def _may_start(self) -> bool:
        return self.reached < self.launch.last_client_id and time.monotonic() < self._ends_at

    def _start_chunk(self) -> None:
        after, last = self.reached, self.launch.last_client_id
        # A list of phones is short and found by an index, in one chunk.
        until = last if self.launch.listed else min(after + self.size, last)
        # Message ids are taken here, so that they grow with each commit: a reader that pages by id
        # finds later messages after the earlier ones. Ids that are left over are not used.
        first_message_id = self.take_message_ids(max(1, min(until - after, CHUNK_RECIPIENTS)))
        client_range = ClientRange(after, until, first_message_id)
        thread = next(self._next_thread)
        self._latest = thread.submit(write_chunk, self.launch, client_range, self._latest)
        self._pending.append((until, self._latest))
        self.reached = until

    def _log_chunk(self, chunk: Chunk) -> None:
        log.info(
            "launch.chunk",
            mailing_id=self.launch.mailing_id,
            recipients=chunk.recipients,
            first_message_id=chunk.first_message_id,
            last_message_id=chunk.last_message_id,
            seconds=round(chunk.seconds, 3),
            audience_complete=chunk.audience_complete,
        )
        attributes = {"mailing_id": self.launch.mailing_id, "recipients": chunk.recipients}
        record_step("launch chunk", chunk.seconds, attributes)
        if chunk.over_limit:
            log_over_limit(self.launch.mailing_id)


def launch_slice(
    guard: Database,
    connections: Sequence[Database],
    mailing_id: int,
    batch_size: int,
    on_batches_ready: Callable[[], object],
) -> bool:
    """Launch for up to SLICE_SECONDS; return whether something is left to do.

    As many chunks are written at once as there are `connections`. `guard` holds a lock against
    other launches of the mailing; if one is under way, returns False. `on_batches_ready` is called
    when batches can be sent. Raises DatabaseError; nothing is lost then.
    """
    with guard.transaction() as cursor:
        cursor.execute(TRY_LOCK_LAUNCH, (mailing_id,))
        if not fetch_one_row(cursor)[0]:
            return False
        with connections[0].transaction() as beginning:
            begun = _begin_launch(beginning, mailing_id, batch_size)
        if begun is None:
            return False
        with connections[0].transaction() as beginning:
            ensure_partition(beginning, mailing_id)

        def take_message_ids(count: int) -> int:
            cursor.execute(TAKE_MESSAGE_IDS, (count,))
            return int(fetch_one_row(cursor)[0])

        with ExitStack() as stack:
            threads = [stack.enter_context(ConnectionThread(db)) for db in connections]
            launch, after, size = begun
            return LaunchSlice(launch, threads, after, size, take_message_ids).run(on_batches_ready)


def _begin_launch(
    cursor: Cursor, mailing_id: int, batch_size: int
) -> tuple[Launch, int, int] | None:
    """Freeze the audience if the mailing is due.

    Returns the launch, the last client id that is written, and the size of the next chunk in
    client ids; None if there is nothing to write.
    """
    cursor.execute(LOCK_MAILING, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    status, due, ended, over_limit, started, *columns = row
    if started:
        if status not in ("running", "paused") or over_limit:
            return None
    # A mailing that was paused until its end never started; its audience is written nevertheless,
    # so that its messages are counted as expired.
    elif (status == "scheduled" and due) or (status == "paused" and ended):
        cursor.execute(FREEZE_AUDIENCE, (mailing_id,))
        log.info("mailing.started", mailing_id=mailing_id)
    else:
        return None
    cursor.execute(READ_CHECKPOINT, (mailing_id,))
    complete, after, last = fetch_one_row(cursor)
    if complete:
        return None
    size = NEXT_SLICE_CHUNK_IDS if started else FIRST_CHUNK_IDS
    return Launch(mailing_id, batch_size, last, tuple(columns)), after, size


def _next_size(chunk: Chunk) -> int:
    """Return how many client ids the next chunk spans, so that it takes CHUNK_SECONDS."""
    growth = min(16.0, max(0.25, CHUNK_SECONDS / max(chunk.seconds, 0.001)))
    return max(FIRST_CHUNK_IDS // 10, int((chunk.until - chunk.after) * growth))
