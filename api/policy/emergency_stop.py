"""The emergency stop: nothing is sent and no mailing is launched until sending is resumed.

It is a row that workers read twice a second and at each claim; no mailing's status changes.
"""

import structlog
from redis.exceptions import RedisError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.db import db, session_cursor
from api.enqueue import job_queues
from shared.db.policy import Stop, read_stop
from shared.fleet_status import count_old_workers

log = structlog.get_logger()

STOP = """
UPDATE emergency_stop SET stopped_at = clock_timestamp(), stopped_by = %s WHERE stopped_at IS NULL
"""
RESUME = """
UPDATE emergency_stop SET stopped_at = NULL, stopped_by = NULL WHERE stopped_at IS NOT NULL
"""


def find_stop() -> Stop:
    """Return since when sending is stopped, and who stopped it."""
    return read_stop(session_cursor())


def stop_sending(actor: Actor) -> Stop:
    """Stop all sending. If it is stopped already, nothing changes."""
    cursor = session_cursor()
    cursor.execute(STOP, (actor.name,))
    return _commit(actor, "sending.stopped", changed=cursor.rowcount > 0)


def resume_sending(actor: Actor) -> Stop:
    """Let messages be sent again; each mailing goes on where it was."""
    cursor = session_cursor()
    cursor.execute(RESUME)
    return _commit(actor, "sending.resumed", changed=cursor.rowcount > 0)


def _commit(actor: Actor, event: str, *, changed: bool) -> Stop:
    stop = find_stop()
    if changed:
        audit_log.record_change(actor, event.removeprefix("sending."), "sending")
    db.session.commit()
    if changed:
        log.warning(event)
    return stop


def count_outdated_workers() -> int | None:
    """Return how many workers do not follow the stop; None if Redis cannot be reached."""
    try:
        return count_old_workers(job_queues().connection)
    except (RedisError, OSError):
        return None
