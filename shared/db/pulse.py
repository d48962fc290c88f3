"""The pulse: whether workers reach PostgreSQL now, and since when without a gap.

While workers cannot reach PostgreSQL they cannot renew their leases, so a lease that runs out then
says nothing about its holder. The single row of `pulse` tells that apart from a holder's death. It
is written when workers look for work, by all of them together about once a second: `seen_at` is the
latest time, and `back_at` the time of the first one after a gap of more than GAP_SECONDS. A gap is
left by each kind of outage: a restart, a failover to a standby (whose clock may differ), a cut
network, a crash, a commit that waited for a synchronous standby.

The row is committed like a renewal of a lease (not with synchronous_commit = off), so that it
stands still when renewals do.
"""

from psycopg2.extensions import cursor as Cursor

# Shorter than the rest of any lease that was renewed right before an outage: see `lease_seconds`.
GAP_SECONDS = 5
INTERVAL_SECONDS = 1

# A row that another worker is writing is skipped.
RECORD_PULSE = f"""
UPDATE pulse SET seen_at = now(), back_at = CASE
    WHEN seen_at BETWEEN now() - interval '{GAP_SECONDS} seconds'
        AND now() + interval '{GAP_SECONDS} seconds' THEN back_at ELSE now() END
WHERE id = (SELECT id FROM pulse
    WHERE seen_at NOT BETWEEN now() - interval '{INTERVAL_SECONDS} second'
        AND now() + interval '{INTERVAL_SECONDS} second'
    FOR NO KEY UPDATE SKIP LOCKED)
"""  # noqa: S608 (constants)

# Workers have reached PostgreSQL for one lease length without a gap, until now: each that lives
# could renew its leases. The parameter `lease` is the length of a lease in seconds.
STEADY = f"""(SELECT seen_at > now() - interval '{GAP_SECONDS} seconds'
    AND back_at < now() - %(lease)s * interval '1 second' FROM pulse)"""  # noqa: S608 (constants)


def record_pulse(cursor: Cursor) -> None:
    """Record that a worker reaches PostgreSQL now. Use a transaction of its own."""
    cursor.execute(RECORD_PULSE)
