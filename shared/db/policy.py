"""The policy in force, and the limits that apply to one mailing: its own and the policy's together.

A mailing follows the policy that was in force at its launch (`mailings.policy_version`); only the
budget is always that of the present policy. A mailing that was not launched yet would follow the
present policy. The policy is read, never locked.
"""

from datetime import datetime
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row

CURRENT_POLICY = "(SELECT * FROM policies ORDER BY version DESC LIMIT 1)"
READ_POLICY = f"""
SELECT version, max_audience, stop_when, budget, launch_delay, notify FROM {CURRENT_POLICY} AS p
"""  # noqa: S608 (CURRENT_POLICY is a constant)
# SQL that joins to `mailings m` the present policy as `present`, and the one that the mailing
# follows as `followed`.
JOIN_POLICIES = f"""
CROSS JOIN {CURRENT_POLICY} AS present
LEFT JOIN policies followed ON followed.version =
    CASE WHEN m.started_at IS NULL THEN present.version ELSE m.policy_version END
"""
# The columns of EffectiveLimits, of a mailing `m` with JOIN_POLICIES.
EFFECTIVE_LIMITS = """
least(m.max_audience, followed.max_audience) AS max_audience,
coalesce(m.stop_when, followed.stop_when) AS stop_when,
m.budget AS mailing_budget, present.budget AS policy_budget
"""
# The rule on refusals of a mailing `m` that was launched, without a join.
STOP_WHEN = """
coalesce(m.stop_when, (SELECT stop_when FROM policies WHERE version = m.policy_version))
"""
READ_LIMITS = f"SELECT {EFFECTIVE_LIMITS} FROM mailings m {JOIN_POLICIES} WHERE m.id = %s"  # noqa: S608
READ_STOP = "SELECT stopped_at, stopped_by FROM emergency_stop"
# Whether nothing may be sent, and no mailing may be launched.
STOPPED = "EXISTS (SELECT FROM emergency_stop WHERE stopped_at IS NOT NULL)"


class Policy(NamedTuple):
    """A version of the policy. A rule that is None, 0 or empty is off."""

    version: int
    max_audience: int | None
    stop_when: dict[str, Any] | None  # {"refused_share": 0.3, "min_answers": 100}
    budget: dict[str, Any] | None  # {"day": {"segments": 5000}, "month": {"amount": "2500.00"}}
    launch_delay: int  # seconds
    notify: list[str]


class EffectiveLimits(NamedTuple):
    """What applies to one mailing.

    Both budgets apply: the mailing's to what it sends itself, the policy's to what all mailings
    send together.
    """

    max_audience: int | None
    stop_when: dict[str, Any] | None
    mailing_budget: dict[str, Any] | None
    policy_budget: dict[str, Any] | None


class Stop(NamedTuple):
    """The emergency stop; both are None while sending is on."""

    stopped_at: datetime | None
    stopped_by: str | None


def read_policy(cursor: Cursor) -> Policy:
    """Return the policy in force."""
    cursor.execute(READ_POLICY)
    return Policy(*fetch_one_row(cursor))


def read_effective_limits(cursor: Cursor, mailing_id: int) -> EffectiveLimits:
    """Return the limits that apply to a mailing now."""
    cursor.execute(READ_LIMITS, (mailing_id,))
    return EffectiveLimits(*fetch_one_row(cursor))


def read_stop(cursor: Cursor) -> Stop:
    """Return the state of the emergency stop."""
    cursor.execute(READ_STOP)
    return Stop(*fetch_one_row(cursor))
