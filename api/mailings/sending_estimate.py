"""Estimate how long sending takes at a rate, with the hours in which each time zone may be sent to.

Zones are served one after the other, as their windows open; what a window leaves unsent continues
when it opens again.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from shared.domain.send_windows import Window, next_closing, next_opening

# Each is one window of one zone. Sending that takes more of them is not estimated.
MAX_STEPS = 2_000


class SendingEstimate(NamedTuple):
    """When the last message is sent (None: too far ahead), and how many are left at the end."""

    finish_at: datetime | None
    unsent: int


class ZoneQueue(NamedTuple):
    """The messages of a zone that are left, and when its window opens next."""

    opens_at: datetime
    zone: str
    messages: float


def estimate_sending(
    queues: Iterable[ZoneQueue],
    window: Window | None,
    rate: float,
    start: datetime,
    end: datetime,
) -> SendingEstimate:
    """Estimate sending from `start` on; `end` is the instant at which dispatching stops."""
    waiting = [queue for queue in queues if queue.messages > 0]
    heapify(waiting)
    now, late = start, 0.0
    for _ in range(MAX_STEPS):
        if not waiting:
            return SendingEstimate(now, round(late))
        opens_at, zone, messages = heappop(waiting)
        now = max(now, opens_at)
        opens_at = next_opening(window, zone, now)
        if opens_at > now:
            heappush(waiting, ZoneQueue(opens_at, zone, messages))
            continue
        seconds = messages / rate
        closes_at = next_closing(window, zone, now)
        if closes_at is not None:
            seconds = min(seconds, (closes_at - now).total_seconds())
        began, now = now, now + timedelta(seconds=seconds)
        late += rate * max(0.0, (now - max(began, end)).total_seconds())
        left = messages - rate * seconds
        if left >= 0.5:  # less is a rounding error
            heappush(waiting, ZoneQueue(next_opening(window, zone, now), zone, left))
    left = sum(queue.messages for queue in waiting)
    return SendingEstimate(None, round(late + left) if now >= end else 0)
