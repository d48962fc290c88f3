"""The form of a run, short by default and long for `make chaos`, and its random seed."""

import os
import random
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("CHAOS_LONG", "") not in ("", "0")
# All random choices of the scenarios are drawn from this seed, so that a run can be repeated. The
# short form judges a change, by the same choices each time; the long form looks for new ones.
SEED = int(
    os.environ.get("CHAOS_SEED") or (random.SystemRandom().randrange(1_000_000) if LONG else 1)
)


def short_or_long(short: T, long: T) -> T:
    """Return the value for this run's form."""
    return long if LONG else short


def scenario_random(scenario: str) -> random.Random:
    """Return a scenario's own random generator, independent of the other scenarios."""
    return random.Random(f"{SEED} {scenario}")
