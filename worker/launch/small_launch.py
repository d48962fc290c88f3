"""Launch many small mailings in one transaction.

Integrators create a mailing for each event. Its audience is a few clients, so that what a launch
costs besides (jobs, transactions, statements) is most of its cost; here many mailings share it. A
mailing is small if an index on one of its filter's columns finds few clients; larger ones are
launched by `launcher`, chunk by chunk.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from datetime import time as TimeOfDay
from typing import Any, NamedTuple

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS
from shared.db.batch_conditions import LAUNCH_DUE
from shared.db.partitions import ensure_partition
from shared.db.policy import CURRENT_POLICY
from shared.db.prepared_statements import PreparedStatement
from shared.domain.send_windows import make_window, next_due
from shared.domain.statuses import Reason
from shared.tracing import record_step
from worker.launch.chunks import log_over_limit
from worker.launch.partition_statistics import RowCounter, analyze_partition
from worker.runtime.database import Database, is_outage

log = structlog.get_logger()

# How many clients an index may find for one mailing, and for all of one transaction.
MAX_CANDIDATES = 2_000
MAX_CANDIDATES_PER_TRANSACTION = 5_000
MAILINGS_PER_TRANSACTION = 50
# Within this time a mailing that is not small is left to the job that was enqueued for it.
REMEMBER_SECONDS = 5.0

# Sequential scans are never right here; compiling would take longer than running.
SET_PLANNER_OPTIONS = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
# The order of the columns in which a filter is tried, with the condition on `clients`.
CANDIDATES = {
    "phones": "phone = ANY (m.phones)",
    "tags": "tag = ANY (m.tags)",
    "operator_codes": "operator_code = ANY (m.operator_codes)",
    "timezones": "timezone = ANY (m.timezones)",
}
# The whole filter of a mailing `m`. Mailings that exclude recipients of others are not small.
CONDITION = AUDIENCE_CONDITION % (
    {name: f"m.{name}" for name in FILTER_COLUMNS} | {"not_excluded": "true"}
)
LOCK_DUE = PreparedStatement(
    "lock_due_mailings",
    f"""
SELECT id, start_at FROM mailings m
WHERE NOT settled AND status = 'scheduled' AND {LAUNCH_DUE}
    AND id <> ALL (%(except)s::bigint[])
ORDER BY start_at, id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
""",  # noqa: S608 (LAUNCH_DUE is a constant)
)
# For each mailing the first column by which few clients are found, and their number: both null if
# the mailing is not small. No column is tried after one that finds few.
FIND_CANDIDATES = PreparedStatement(
    "find_candidates",
    f"""
SELECT m.id, found.name, found.candidates
FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS due (id, n) JOIN mailings m USING (id)
LEFT JOIN LATERAL (
    {
        " UNION ALL ".join(
            f'''
    SELECT '{name}' AS name, count(*) AS candidates
    FROM (SELECT FROM clients WHERE {condition} LIMIT %(limit)s + 1) AS chosen
    WHERE m.{name} <> '{{}}' AND m.exclude_mailing_ids = '{{}}'
    HAVING m.{name} <> '{{}}' AND m.exclude_mailing_ids = '{{}}' AND count(*) <= %(limit)s'''
            for name, condition in CANDIDATES.items()
        )
    }
    LIMIT 1
) AS found ON true
ORDER BY due.n
""",  # noqa: S608 (constants)
)
# Like the statement of one chunk (see chunks.py), for several mailings: their recipients are
# numbered mailing by mailing and zone by zone, so that a batch holds consecutive messages of one
# zone, and each recipient's batch is found by division.
WRITE_AUDIENCES = PreparedStatement(
    "write_audiences",
    f"""
WITH chosen AS MATERIALIZED (
    SELECT m.id AS mailing_id, found.*
    FROM unnest(%(ids)s::bigint[], %(columns)s::text[]) AS due (id, name) JOIN mailings m USING (id)
    CROSS JOIN LATERAL (
        {
        " UNION ALL ".join(
            f'''
        SELECT id AS client_id, timezone,
            EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone) AS opted_out
        FROM clients WHERE due.name = '{name}' AND {condition} AND {CONDITION}'''
            for name, condition in CANDIDATES.items()
        )
    }
    ) AS found
), counted AS (
    SELECT mailing_id, timezone, count(*) AS size,
        (count(*) - 1) / %(batch_size)s::int + 1 AS parts,
        row_number() OVER (ORDER BY mailing_id, timezone) AS n
    FROM chosen GROUP BY mailing_id, timezone
), zones AS MATERIALIZED (
    SELECT *, coalesce(sum(size) OVER earlier, 0)::bigint AS earlier_messages,
        coalesce(sum(parts) OVER earlier, 0)::bigint AS earlier_batches
    FROM counted WINDOW earlier AS (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), taken AS MATERIALIZED (
    SELECT take_ids('message_ids', recipients) - 1 AS message,
        take_ids('batch_ids', batches) - 1 AS batch
    FROM (
        SELECT coalesce(sum(size), 0)::bigint AS recipients,
            coalesce(sum(parts), 0)::bigint AS batches
        FROM zones
    ) AS summed
), made_batches AS (
    INSERT INTO batches (mailing_id, id, first_id, last_id, due_at, size, pending, timezone)
    SELECT mailing_id, batch + earlier_batches + part, first_id, last_id, now(),
        last_id - first_id + 1, last_id - first_id + 1, timezone
    FROM taken CROSS JOIN zones CROSS JOIN generate_series(1, parts) AS part
    CROSS JOIN LATERAL (
        SELECT message + earlier_messages + (part - 1) * %(batch_size)s::int + 1 AS first_id,
            message + earlier_messages + least(part * %(batch_size)s::int, size) AS last_id
    ) AS span
    ORDER BY 2
), recipients AS MATERIALIZED (
    SELECT mailing_id, client_id, opted_out,
        message + row_number() OVER (ORDER BY zones.n, client_id) AS id,
        batch + earlier_batches + 1 + (row_number() OVER (
            PARTITION BY zones.n ORDER BY client_id) - 1) / %(batch_size)s::int AS batch_id
    FROM chosen JOIN zones USING (mailing_id, timezone) CROSS JOIN taken
), made_messages AS (
    INSERT INTO messages (mailing_id, id, client_id, batch_id)
    SELECT mailing_id, id, client_id, batch_id FROM recipients ORDER BY id
), audiences AS MATERIALIZED (
    SELECT due.id AS mailing_id, count(recipients.id) AS recipients,
        min(recipients.id) AS first_id, max(recipients.id) AS last_id,
        jsonb_agg(jsonb_build_array(due.id, batch_id, recipients.id) ORDER BY recipients.id)
            FILTER (WHERE opted_out) AS opted_out
    FROM unnest(%(ids)s::bigint[]) AS due (id)
    LEFT JOIN recipients ON recipients.mailing_id = due.id GROUP BY due.id
), made_blocks AS (
    INSERT INTO id_blocks (first_id, last_id, mailing_id)
    SELECT first_id, last_id, mailing_id FROM audiences WHERE recipients > 0
), newest AS MATERIALIZED (
    SELECT coalesce(max(id), 0) AS client_id FROM clients
), limited AS MATERIALIZED (
    SELECT m.id AS mailing_id, policy.version AS policy_version,
        least(m.max_audience, policy.max_audience) AS audience_limit
    FROM mailings m CROSS JOIN {CURRENT_POLICY} AS policy WHERE m.id = ANY (%(ids)s::bigint[])
), launched AS (
    UPDATE mailings m SET started_at = now(), updated_at = now(),
        status = (CASE WHEN over_limit THEN 'paused' ELSE 'running' END)::mailing_status,
        pause_reason = CASE WHEN over_limit THEN 'audience_limit' END,
        launch_last_client_id = newest.client_id, launched_client_id = newest.client_id,
        audience = recipients, audience_complete = NOT over_limit,
        policy_version = limited.policy_version, audience_limit = limited.audience_limit
    FROM audiences JOIN limited USING (mailing_id) CROSS JOIN newest
        CROSS JOIN LATERAL (
            SELECT coalesce(recipients > limited.audience_limit, false) AS over_limit
        ) AS compared
    WHERE m.id = mailing_id
    RETURNING m.id, request_id, over_limit, window_from, window_to, recipients, first_id, last_id,
        opted_out
)
SELECT launched.*, now(), CASE WHEN window_from IS NOT NULL THEN (
    SELECT array_agg(timezone) FROM zones WHERE mailing_id = launched.id) END
FROM launched ORDER BY id
""",  # noqa: S608 (constants)
)
SCHEDULE_FOR_WINDOWS = """
UPDATE batches b SET due_at = t.opens
FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[]) AS t (mailing_id, zone, opens)
WHERE b.mailing_id = ANY (%s) AND b.mailing_id = t.mailing_id AND b.timezone = t.zone
"""
FIND_PARTITIONS = """
SELECT due.id, first_mailing_id FROM unnest(%s::bigint[]) AS due (id)
LEFT JOIN partition_ranges ON due.id BETWEEN first_mailing_id AND until_mailing_id - 1
ORDER BY due.id
"""


class LaunchedMailing(NamedTuple):
    """A mailing whose whole audience was written."""

    id: int
    request_id: str | None
    over_limit: bool  # it is paused, since its audience exceeds its limit
    window_from: TimeOfDay | None
    window_to: TimeOfDay | None
    recipients: int
    first_message_id: int | None  # None if there are no recipients
    last_message_id: int | None
    opted_out: list[tuple[int, int, int]] | None  # (mailing, batch, message) ids
    now: datetime
    zones: list[str] | None  # None without a window


class SmallLaunch(NamedTuple):
    """What one transaction did; `more`: further mailings may be due."""

    launched: Sequence[LaunchedMailing] = ()
    larger: Sequence[int] = ()  # due mailings that must be launched chunk by chunk
    more: bool = False
    partition: int | None = None  # of the newest launched mailing, if it existed before


class SmallLauncher:
    """Launches the small mailings that are due, on one connection.

    It remembers for a while which due mailings are not small, so that it does not look at them
    each time; not for long, as the job that was enqueued for one may be lost.
    """

    def __init__(self, db: Database, batch_size: int):
        self._db, self._batch_size = db, batch_size
        self._larger: dict[int, float] = {}
        self._partition: int | None = None
        self._rows = RowCounter()

    def launch_some(self) -> SmallLaunch:
        """Launch some of the mailings in one transaction.

        Raises DatabaseError in an outage. If mailings cannot be launched together for another
        reason, nothing is written, and each is to be launched alone.
        """
        started = time.monotonic()
        since = started - REMEMBER_SECONDS
        self._larger = {id_: at for id_, at in self._larger.items() if at > since}
        due: list[int] = []
        try:
            with self._db.transaction() as cursor:
                cursor.execute(SET_PLANNER_OPTIONS)
                values = {"except": list(self._larger), "limit": MAILINGS_PER_TRANSACTION}
                LOCK_DUE.run(cursor, values)
                due = [mailing_id for mailing_id, _ in cursor.fetchall()]
                launch = _launch(cursor, due, self._batch_size) if due else SmallLaunch()
        except Exception as error:
            if is_outage(error):
                raise
            log.error("launch.refused", mailing_ids=due, exc_info=error)
            launch = SmallLaunch(larger=due)
        self._larger.update(dict.fromkeys(launch.larger, started))
        seconds = round(time.monotonic() - started, 3)
        for mailing in launch.launched:
            _log_launched(mailing, seconds)
        if launch.partition is not None:
            self._refresh_statistics(
                launch.partition, sum(mailing.recipients for mailing in launch.launched)
            )
        return launch

    def _refresh_statistics(self, partition: int, rows: int) -> None:
        """Analyze the newest partition, if it has grown."""
        if partition != self._partition:
            self._partition, self._rows = partition, RowCounter()
        if self._rows.add(rows):
            analyze_partition(self._db, partition)


def _launch(cursor: Cursor, due: list[int], batch_size: int) -> SmallLaunch:
    FIND_CANDIDATES.run(cursor, {"ids": due, "limit": MAX_CANDIDATES})
    small: dict[int, str] = {}
    larger: list[int] = []
    more = len(due) == MAILINGS_PER_TRANSACTION
    total = 0
    for mailing_id, column, candidates in cursor.fetchall():
        if column is None:
            larger.append(mailing_id)
        elif total + candidates <= MAX_CANDIDATES_PER_TRANSACTION:
            small[mailing_id] = column
            total += candidates
        else:
            more = True
    if not small:
        return SmallLaunch((), larger, more)
    ids = list(small)
    cursor.execute(FIND_PARTITIONS, (ids,))
    for mailing_id, partition in cursor.fetchall():
        if partition is None:
            ensure_partition(cursor, mailing_id)
    values = {"ids": ids, "columns": list(small.values()), "batch_size": batch_size}
    WRITE_AUDIENCES.run(cursor, values)
    launched = [LaunchedMailing(*row) for row in cursor.fetchall()]
    _schedule_for_windows(cursor, launched)
    opted_out = [each for mailing in launched for each in mailing.opted_out or ()]
    status_changes.cancel_messages(cursor, opted_out, Reason.OPTED_OUT)
    return SmallLaunch(launched, larger, more, partition)


def _schedule_for_windows(cursor: Cursor, launched: Sequence[LaunchedMailing]) -> None:
    """Let the batches of mailings with a window wait for it."""
    opens = [
        (mailing.id, zone, next_due(window, zone, mailing.now))
        for mailing in launched
        if (window := make_window(mailing.window_from, mailing.window_to)) is not None
        for zone in mailing.zones or ()
    ]
    if opens:
        ids, zones, instants = map(list, zip(*opens, strict=True))
        cursor.execute(SCHEDULE_FOR_WINDOWS, (ids, zones, instants, ids))


def _log_launched(mailing: LaunchedMailing, seconds: float) -> None:
    ids: dict[str, Any] = {"mailing_id": mailing.id}
    if mailing.request_id is not None:
        ids["request_id"] = mailing.request_id
    log.info("mailing.started", **ids)
    log.info(
        "launch.chunk",
        **ids,
        recipients=mailing.recipients,
        first_message_id=mailing.first_message_id,
        last_message_id=mailing.last_message_id,
        seconds=seconds,
    )
    record_step("launch", seconds, ids | {"recipients": mailing.recipients}, mailing.request_id)
    if mailing.over_limit:
        log_over_limit(**ids)
