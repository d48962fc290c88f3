"""Recompute what was derived from other time zone rules than those of this process.

A batch that waits for its window stores when it is due (`batches.due_at`): the only instant that is
stored and follows from the rules. Everything else, such as the days of reports, is computed when it
is needed. New rules arrive with a new version of the workers, and while those of the previous
version run, they may still write due times by the old rules; so the due times are recomputed again
for an hour after a change.
"""

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row
from shared.db.status_changes import SHARE_WINDOW
from shared.domain.send_windows import make_window, next_due
from worker.maintenance.containment import contain_failure
from worker.runtime.database import Database

log = structlog.get_logger()

READ_RULES = """
SELECT version, version = %s AND applied_at < now() - interval '1 hour' FROM time_zone_rules
"""
STORE_VERSION = """
UPDATE time_zone_rules SET version = %(version)s, applied_at = now() WHERE version <> %(version)s
"""
FIND_MAILINGS = """
SELECT id FROM mailings
WHERE NOT settled AND window_from IS NOT NULL AND started_at IS NOT NULL AND end_at > now()
    AND status IN ('running', 'paused')
ORDER BY id
"""
LOCK_WAITING_BATCHES = """
SELECT id, timezone FROM batches WHERE mailing_id = %s AND due_at > now()
ORDER BY id FOR NO KEY UPDATE
"""
RESCHEDULE_WAITING = """
UPDATE batches b SET due_at = greatest(t.opens, b.retry_at)
FROM unnest(%s::text[], %s::timestamptz[]) AS t (zone, opens)
WHERE b.mailing_id = %s AND b.due_at > now() AND b.timezone = t.zone
    AND b.due_at <> greatest(t.opens, b.retry_at)
"""


def apply_zone_rules(db: Database, version: str) -> int:
    """Let waiting batches follow the rules of this process; return how many changed.

    Does nothing if they have followed `version`, that of this process, for an hour.
    """
    with db.transaction() as cursor:
        cursor.execute(READ_RULES, (version,))
        previous, done = fetch_one_row(cursor)
        if done:
            return 0
        cursor.execute(FIND_MAILINGS)
        mailings = [mailing_id for (mailing_id,) in cursor.fetchall()]
    changed = 0
    for mailing_id in mailings:
        with contain_failure("time zone rules", mailing_id=mailing_id):
            with db.transaction() as cursor:
                batches = _reschedule_waiting(cursor, mailing_id)
            if batches:
                log.info("mailing.rescheduled", mailing_id=mailing_id, batches=batches)
            changed += batches
    with db.transaction() as cursor:
        cursor.execute(STORE_VERSION, {"version": version})
        stored = bool(cursor.rowcount)
    if stored:
        log.info("time_zones.applied", version=version, previous=previous, batches=changed)
    return changed


def _reschedule_waiting(cursor: Cursor, mailing_id: int) -> int:
    """Recompute when a mailing's waiting batches are due; return how many changed."""
    cursor.execute(SHARE_WINDOW, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return 0
    start, end, now = row
    cursor.execute(LOCK_WAITING_BATCHES, (mailing_id,))
    zones = sorted({zone for _, zone in cursor.fetchall()})
    opens = [next_due(make_window(start, end), zone, now) for zone in zones]
    cursor.execute(RESCHEDULE_WAITING, (zones, opens, mailing_id))
    return cursor.rowcount
