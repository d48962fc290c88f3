"""How many messages the provider serves at once, and what it does with more."""

import asyncio
from enum import StrEnum


class Overload(StrEnum):
    """What happens to messages, or connections, above the capacity."""

    WAIT = "wait"  # they wait for their turn
    THROTTLE = "throttle"  # they are answered with 429
    REFUSE = "refuse"  # new connections are reset
    SLOW_DOWN = "slow_down"  # every answer takes longer: (1 + (served / capacity)²) times as long


class Capacity:
    """Counts the messages being served, against one capacity; None is unlimited."""

    def __init__(self, capacity: int | None, overload: Overload) -> None:
        self._capacity, self._overload = capacity, overload
        self._places = None
        if capacity is not None and overload is Overload.WAIT:
            self._places = asyncio.Semaphore(capacity)
        self._served = 0

    @property
    def throttles(self) -> bool:
        """Whether a message that arrives now is answered with 429."""
        return self._overload is Overload.THROTTLE and self._is_used_up(self._served)

    def refuses_connection(self, connections: int) -> bool:
        """Return whether a new connection is reset while there are `connections`."""
        return self._overload is Overload.REFUSE and self._is_used_up(connections)

    async def serve(self, seconds: float) -> None:
        """Take the time that serving a message takes, with a latency of `seconds`."""
        if self._places is not None:
            async with self._places:
                await asyncio.sleep(seconds)
            return
        self._served += 1
        try:
            if self._capacity is not None and self._overload is Overload.SLOW_DOWN:
                seconds *= 1 + (self._served / self._capacity) ** 2
            await asyncio.sleep(seconds)
        finally:
            self._served -= 1

    def _is_used_up(self, used: int) -> bool:
        return self._capacity is not None and used >= self._capacity
