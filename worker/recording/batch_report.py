"""What a worker says of a batch it holds: a flush, and what it learns of the batch in return."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from worker.recording.state_machine import Report


class Release(NamedTuple):
    """How a batch is given back: due again after `delay` seconds, which is a `backoff` or not.

    `park` asks to wait for the mailing's window to open in the batch's zone instead.
    """

    delay: float = 0.0
    backoff: bool = False
    park: bool = False


@dataclass(slots=True)
class Flush:
    """What one worker has to say of one batch since its last flush.

    Flushes are numbered per (batch, token) and applied once, so that one whose COMMIT was lost can
    be repeated. An empty one renews the lease.
    """

    mailing_id: int
    batch_id: int
    token: int
    number: int
    accepted: list[tuple[int, float]] = field(default_factory=list)
    others: list[Report] = field(default_factory=list)
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A batch after a flush: does the worker still hold it, and what is left to send in it.

    `due_at` is set if the flush gave it back with something left.
    """

    held: bool
    pending: int
    due_at: datetime | None = field(default=None, compare=False)
