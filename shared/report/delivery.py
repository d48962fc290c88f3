"""Sends an e-mail at most once; a row of a table coordinates the processes.

The tables are `daily_reports` and `notifications`, whose columns of the same names hold the state:
see report_models.py.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from email.message import EmailMessage
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.report.mail import NotSent, SentInDoubt, deliver_mail

# Seconds between attempts: doubled from a minute to an hour.
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 60, 3600
# After this time a claim is void, as its process must have ended. It is longer than sending to a
# slow mail server can take.
CLAIM_SECONDS = 300
NO_SERVER = "SMTP_URL is not set"

Transaction = Callable[[], AbstractContextManager[Cursor]]

MARK_HANDING_OVER = """
UPDATE {table} SET status = 'handing_over', due_at = now() + %s * interval '1 second'
WHERE {key} = %s AND status = 'connecting' AND attempts = %s RETURNING 1
"""
MARK_SENT = """
UPDATE {table} SET status = 'sent', sent_at = now(), served = served || %s, error = %s
WHERE {key} = %s AND status IN ('handing_over', 'in_doubt') AND attempts = %s
"""
# The recipients in `served` have the mail; the next attempt is for the others.
SCHEDULE_RETRY = """
UPDATE {table} SET status = 'waiting', served = served || %s, error = %s,
    due_at = now() + least(%s * 2 ^ least(attempts - 1, 10), %s) * interval '1 second'
WHERE {key} = %s AND status IN ('connecting', 'handing_over') AND attempts = %s
"""
MARK_IN_DOUBT = """
UPDATE {table} SET status = 'in_doubt', error = %s
WHERE {key} = %s AND status = 'handing_over' AND attempts = %s
"""
MARK_ABANDONED = """
UPDATE {table} SET status = 'in_doubt', error = 'its sender ended while handing it over'
WHERE status = 'handing_over' AND due_at <= now() RETURNING {key}
"""


class _ClaimLost(Exception):
    """Another process has claimed the mail meanwhile."""


class Delivery(NamedTuple):
    """The result of an attempt: "sent", "failed" (it is tried again), "in doubt" or "not due".

    `accepted` and `refused` are numbers of recipients.
    """

    result: str
    error: str | None = None
    accepted: int = 0
    refused: int = 0


class MailRow(NamedTuple):
    """The row of a mail that this process has claimed with its number `attempt`."""

    transaction: Transaction
    table: str
    key: str
    value: object
    attempt: int

    def deliver(self, smtp_url: str | None, mail: EmailMessage, recipients: list[str]) -> Delivery:
        """Send the mail to those who do not have it yet, and record the result."""
        if smtp_url is None:
            return self._schedule_retry([], NO_SERVER)
        try:
            refused = deliver_mail(smtp_url, mail, recipients, self._mark_handing_over)
        except _ClaimLost:
            return Delivery("not due")
        except NotSent as error:
            return self._schedule_retry([], str(error))
        except SentInDoubt as error:
            self._update(MARK_IN_DOUBT, str(error))
            return Delivery("in doubt", str(error))
        accepted = [each for each in recipients if each not in refused]
        problem = "; ".join(f"{each}: {why}" for each, why in refused.items()) or None
        if problem and any(why.startswith("4") for why in refused.values()):
            return self._schedule_retry(accepted, problem)
        self._update(MARK_SENT, accepted, problem)
        return Delivery("sent", problem, len(accepted), len(refused))

    def _mark_handing_over(self) -> None:
        if not self._update(MARK_HANDING_OVER, CLAIM_SECONDS):
            raise _ClaimLost

    def _schedule_retry(self, served: list[str], error: str) -> Delivery:
        self._update(SCHEDULE_RETRY, served, error, FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS)
        return Delivery("failed", error)

    def _update(self, statement: str, *values: object) -> bool:
        with self.transaction() as cursor:
            columns = {"table": self.table, "key": self.key}
            cursor.execute(statement.format(**columns), (*values, self.value, self.attempt))
            return cursor.rowcount > 0


def mark_abandoned(cursor: Cursor, table: str, key: str) -> list[object]:
    """Mark the mails in doubt whose sender ended while handing them over; return their keys."""
    cursor.execute(MARK_ABANDONED.format(table=table, key=key))
    return [value for (value,) in cursor.fetchall()]
