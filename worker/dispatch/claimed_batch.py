"""A batch that was claimed, with the messages to send."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from shared.domain.send_windows import Window
from shared.domain.templates import Template


class MessageRow(NamedTuple):
    """A pending message. `phone` is None if the client was deleted.

    `first_phone` and `first_text` are those of an earlier attempt that was not accepted.
    `opted_out`: this phone, or the one that a retry would repeat, has opted out. `values` are
    those of the text's placeholders, if it has any.
    """

    message_id: int
    client_id: int
    phone: int | None
    attempts: int
    first_phone: int | None
    first_text: str | None
    opted_out: bool
    values: dict[str, str] | None


@dataclass(slots=True)
class ClaimedBatch:
    """A batch as it was claimed. `lease_start` is a boottime before the claim.

    `taken_over`: the previous holder's lease had run out. `first_text_version`: that of the batch
    before the claim. `has_doubts`: some of its messages were in doubt before. Where a budget
    applies (`budgeted`), only the messages in `reservations` may be sent, each with no more
    segments than it says.
    """

    mailing_id: int
    batch_id: int
    token: int
    attempt: int
    first_id: int
    last_id: int
    timezone: str
    has_attempts: bool
    taken_over: bool
    end_at: datetime
    rate_limit: int | None
    request_id: str | None
    text: str
    window: Window | None
    template: Template
    lease_start: float
    rows: list[MessageRow] = field(default_factory=list)
    stop_when: dict[str, Any] | None = None
    answer_round: int = 0
    first_text_version: int | None = None
    has_doubts: bool = False
    budgeted: bool = False
    reservations: dict[int, int] | None = None
