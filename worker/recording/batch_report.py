"""What a worker reports of a batch it holds, and the batch's state that it gets in return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from worker.recording.state_machine import MessageReport


class BatchRelease(NamedTuple):
    """How a batch is given back: due again after `delay` seconds, as a `backoff` or not.

    With `wait_for_window` it is due when the mailing's window opens in the batch's zone instead.
    """

    delay: float = 0.0
    backoff: bool = False
    wait_for_window: bool = False


@dataclass(slots=True)
class BatchReport:
    """The outcomes that one worker has of one batch since its previous report.

    Reports are numbered per (batch, token) and applied once, so that one whose COMMIT was lost can
    be repeated. An empty one renews the lease. `accepted` holds (message id, seconds since the
    epoch); every other outcome is in `message_reports`. `last`: the worker knows of no other batch
    of the mailing that is due, so the mailing may be finished with this one. `text_segments` is the
    number of SMS segments of a text without placeholders, and `segments` that of the messages of
    another by id; of messages that are in neither they are measured when they are recorded.
    `answer_round`: the round in which the answers are counted; None if the mailing has no rule
    `stop_when`.
    """

    mailing_id: int
    batch_id: int
    token: int
    number: int
    accepted: list[tuple[int, float]] = field(default_factory=list)
    message_reports: list[MessageReport] = field(default_factory=list)
    release: BatchRelease | None = None
    last: bool = False
    text_segments: int | None = None
    segments: Mapping[int, int] = field(default_factory=dict)
    answer_round: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """A batch after a report: whether the worker still holds it, and how many are pending.

    `due_at` is set if the report gave the batch back with messages left. `settled`: the mailing was
    finished with this report.
    """

    held: bool
    pending: int
    due_at: datetime | None = field(default=None, compare=False)
    settled: bool = field(default=False, compare=False)
