"""The form of a run: short for every day, long for `make chaos`; and its seed."""

import os
import random
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("CHAOS_LONG", "") not in ("", "0")
# Everything that a scenario leaves to chance is drawn from this: the same seed, the same draws.
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))


def pick(short: T, long: T) -> T:
    """What a scenario does in the short form, and in the long one."""
    return long if LONG else short


def dice(scenario: str) -> random.Random:
    """A scenario's own chance, whichever others run before it."""
    return random.Random(f"{SEED} {scenario}")
