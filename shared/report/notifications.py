"""Tells people of a mailing's events by e-mail: a rule has paused it, it will be late, it is done.

The events are rows of `notifications`. They go to the policy's addresses (`notify`), and to the
person who created the mailing, if the OpenID provider has verified that person's e-mail.
"""

import re

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.config.checks import MAIL_ADDRESS
from shared.config.settings import ReportSettings
from shared.db.mailing_counts import COUNTS_JOIN
from shared.db.policy import read_policy
from shared.report.delivery import CLAIM_SECONDS, MailRow, Transaction, mark_abandoned
from shared.report.event import read_event
from shared.report.notification_mail import make_notification

log = structlog.get_logger()

# A mail that could not be sent for so long is not sent any more: what it says is old.
MAX_AGE_HOURS = 24
# A pace that was measured for a shorter time says little.
MIN_PACE_MINUTES = 3
# What is late by less than this may still be through.
LATE_FACTOR = 1.1

# Messages that will not be sent by their mailing's end, as in the daily report; the pace is that of
# the last ten minutes, or since the start.
RECORD_LATE = f"""
INSERT INTO notifications (mailing_id, kind, details)
SELECT m.id, 'late',
    jsonb_build_object('end_at', m.end_at, 'never', never, 'due', in_progress + due, 'pace', pace)
FROM mailings m {COUNTS_JOIN}
CROSS JOIN LATERAL (
    SELECT coalesce(sum(batches.pending), 0)::bigint AS never
    FROM batches WHERE mailing_id = m.id AND due_at >= m.end_at - %(margin)s * interval '1 second'
) b
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM now() - m.started_at) / 60 AS minutes,
        extract(epoch FROM m.end_at - now()) / 60 - %(margin)s / 60.0 AS minutes_left
) t
CROSS JOIN LATERAL (
    SELECT round(coalesce(sum(count), 0) / least(10, greatest(1, minutes)), 1)::float8 AS pace
    FROM minutes WHERE mailing_id = m.id AND minute >= now() - interval '10 minutes'
) p
WHERE NOT m.settled AND m.status = 'running' AND m.deleted_at IS NULL AND m.end_at > now()
    AND m.audience_complete
    AND (never > 0 OR minutes >= {MIN_PACE_MINUTES}
        AND in_progress + due > {LATE_FACTOR} * pace * minutes_left)
ON CONFLICT DO NOTHING
"""  # noqa: S608 (constants)
SKIP_OLD = f"""
UPDATE notifications SET status = 'skipped'
WHERE status IN ('waiting', 'connecting') AND due_at <= now()
    AND created_at < now() - interval '{MAX_AGE_HOURS} hours'
"""  # noqa: S608 (a constant)
MAILINGS = "SELECT id, mailing_id FROM notifications WHERE id = ANY (%s::bigint[])"
FIND_DUE = """
SELECT id FROM notifications WHERE status IN ('waiting', 'connecting') AND due_at <= now()
ORDER BY id LIMIT 100
"""
CLAIM = """
UPDATE notifications SET status = 'connecting', attempts = attempts + 1,
    due_at = now() + %s * interval '1 second'
WHERE id = %s AND status IN ('waiting', 'connecting') AND due_at <= now()
RETURNING attempts, served
"""
SKIP = "UPDATE notifications SET status = 'skipped' WHERE id = %s AND attempts = %s"
# The actor of an entry names a person as audit_log.service.name_person does.
AUTHOR = """
SELECT p.email FROM audit_log a
JOIN people p ON a.actor = concat('person:', p.issuer, '#', p.subject) AND p.email_verified
WHERE a.entity = 'mailing' AND a.entity_id = %s AND a.action = 'created'
"""


def record_late_mailings(transaction: Transaction, settings: ReportSettings) -> None:
    """Write an event for each mailing that will not be through by its end, once for each end."""
    with transaction() as cursor:
        cursor.execute(RECORD_LATE, {"margin": settings.end_margin})


def find_due_notifications(transaction: Transaction, settings: ReportSettings) -> list[int]:
    """Return the ids of events whose mail must be sent now."""
    if settings.smtp_url is None:
        return []
    with transaction() as cursor:
        abandoned = mark_abandoned(cursor, "notifications", "id")
        cursor.execute(MAILINGS, (abandoned,))
        for notification_id, mailing_id in cursor.fetchall():
            ids = {"notification_id": notification_id, "mailing_id": mailing_id}
            log.error("notification.in_doubt", error="its sender has ended", **ids)
        cursor.execute(SKIP_OLD)
        cursor.execute(FIND_DUE)
        return [notification_id for (notification_id,) in cursor.fetchall()]


def send_notification(
    transaction: Transaction, settings: ReportSettings, notification_id: int
) -> str:
    """Send the mail about an event, unless it is sent or being sent; return the result.

    The result is "sent", "failed" (it will be retried), "in doubt" (the mail server may have
    accepted it), "skipped" (it has no recipient) or "not due".
    """
    with transaction() as cursor:
        cursor.execute(CLAIM, (CLAIM_SECONDS, notification_id))
        row = cursor.fetchone()
        if row is None:
            return "not due"
        attempt, served = row
        event = read_event(cursor, notification_id)
        recipients = [] if event is None else _find_recipients(cursor, event.mailing_id)
        if event is None or not recipients:
            cursor.execute(SKIP, (notification_id, attempt))
            return "skipped"
    mail = make_notification(event, settings, recipients)
    left = [each for each in recipients if each not in served]
    claimed = MailRow(transaction, "notifications", "id", notification_id, attempt)
    delivery = claimed.deliver(settings.smtp_address, mail, left)
    bound = log.bind(notification_id=notification_id, kind=event.kind, attempt=attempt)
    place = {"mailing_id": event.mailing_id}
    if delivery.result == "failed":
        bound.warning("notification.failed", error=delivery.error, **place)
    elif delivery.result == "in doubt":
        bound.error("notification.in_doubt", error=delivery.error, **place)
    elif delivery.result == "sent":
        counts = {"recipients": delivery.accepted, "refused": delivery.refused}
        bound.info("notification.sent", **place, **counts)
    return delivery.result


def _find_recipients(cursor: Cursor, mailing_id: int) -> list[str]:
    """Return the policy's addresses and the author's, each once.

    The author's is what the OpenID provider calls an e-mail: one that a mail server does not take
    must not keep the mail from the others.
    """
    addresses = list(read_policy(cursor).notify)
    cursor.execute(AUTHOR, (mailing_id,))
    addresses += [email for (email,) in cursor.fetchall() if re.fullmatch(MAIL_ADDRESS, email)]
    return list({address.lower(): address for address in reversed(addresses)}.values())[::-1]
