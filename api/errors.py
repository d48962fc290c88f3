"""Errors that services raise, independent of HTTP. `api.http.problems` renders them."""

from collections.abc import Sequence
from typing import NamedTuple

MAX_REPORTED_ERRORS = 100


class FieldError(NamedTuple):
    """One invalid value of a request: a stable code, an explanation, and one of two locations."""

    detail: str
    code: str
    pointer: str | None = None
    parameter: str | None = None

    def as_json(self) -> dict[str, str]:
        return {name: value for name, value in self._asdict().items() if value is not None}


class ServiceError(Exception):
    """An operation that cannot be carried out. The subclasses say what the caller can do."""

    def __init__(self, detail: str, *, field_errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field_errors = field_errors


class NotFound(ServiceError):
    """The object does not exist, or was deleted."""


class Conflict(ServiceError):
    """The request is valid, but the present state does not permit it."""


class ContentTooLarge(ServiceError):
    """Send less at once."""


class InvalidFields(ServiceError):
    """Values break rules; each field error says which value and which rule.

    The first MAX_REPORTED_ERRORS are kept. `total` counts those that were not even made.
    """

    def __init__(self, *field_errors: FieldError, total: int | None = None) -> None:
        first = field_errors[0]
        location = first.parameter or first.pointer
        detail = f"{location}: {first.detail}" if location else first.detail
        if total is None:
            total = len(field_errors)
        if total > 1:
            detail += f" (and {total - 1} more)"
        super().__init__(detail, field_errors=field_errors[:MAX_REPORTED_ERRORS])


class RateLimited(ServiceError):
    """Try again after `seconds`."""

    def __init__(self, detail: str, *, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class Unavailable(ServiceError):
    """A dependency cannot be reached; try again in a moment."""
