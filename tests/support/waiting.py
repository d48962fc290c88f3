"""Wait for a condition instead of a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

# Of a command that is to end: what it takes on a busy machine, below the limit of a test.
COMMAND_SECONDS = 240

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None], seconds: float = 30.0, what: str = "", every: float = 0.05
) -> T:
    """Return the condition's first true value; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition} (last: {value!r})")
        time.sleep(every)
