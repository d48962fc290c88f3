"""Counts the mails about events of mailings that have not reached all of their recipients."""

from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.policy import CURRENT_POLICY
from shared.db.rows import fetch_one_row

# An event is told within seconds. An unsent one without an attempt counts only if the policy has
# addresses: else it is not known whether there is anyone to tell.
WAITING_MINUTES = 5
# What has ended without delivery is counted for so long. A mail is tried for a day.
COUNTED_HOURS = 48
COUNT = f"""
SELECT count(*) FILTER (WHERE status IN ('waiting', 'connecting', 'handing_over')
        AND created_at < now() - interval '{WAITING_MINUTES} minutes'
        AND (attempts > 0 OR cardinality(p.notify) > 0)),
    count(*) FILTER (WHERE status = 'in_doubt'),
    count(*) FILTER (WHERE status = 'skipped' AND error IS NOT NULL),
    count(*) FILTER (WHERE status = 'sent' AND error IS NOT NULL)
FROM notifications CROSS JOIN {CURRENT_POLICY} AS p
WHERE created_at > now() - interval '{COUNTED_HOURS} hours'
"""  # noqa: S608 (constants)


class UndeliveredMails(NamedTuple):
    """Mails of the last two days that have not reached all of their recipients."""

    waiting: int  # not sent, and tried again
    in_doubt: int  # the mail server may have accepted it
    given_up: int  # tried for a day
    refused: int  # the mail server has refused some of the recipients for good


def count_undelivered_mails(cursor: Cursor) -> UndeliveredMails:
    """Return the numbers of mails that have not been delivered."""
    cursor.execute(COUNT)
    return UndeliveredMails(*fetch_one_row(cursor))
