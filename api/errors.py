"""Errors that services raise, independent of HTTP. `api.http.problems` renders them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.domain.error_texts import ErrorText, error_text

MAX_REPORTED_ERRORS = 100


class FieldError(NamedTuple):
    """One invalid value of a request: a stable code, an explanation, and one of two locations."""

    detail: ErrorText
    code: str
    pointer: str | None = None
    parameter: str | None = None

    def as_json(self) -> dict[str, str]:
        return {name: value for name, value in self._asdict().items() if value is not None}


class ServiceError(Exception):
    """An operation that cannot be carried out. The subclasses say what the caller can do.

    `code` is stable and listed in api/error_codes.py. `members` are further members of the error's
    JSON, which programs can use.
    """

    code = "internal_error"

    def __init__(
        self,
        detail: ErrorText,
        *,
        code: str | None = None,
        field_errors: Sequence[FieldError] = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.field_errors = field_errors
        self.members = dict(members or {})


class NotFound(ServiceError):
    """The object does not exist, or was deleted."""

    code = "not_found"


class Conflict(ServiceError):
    """The request is valid, but the present state does not permit it."""

    def __init__(self, detail: ErrorText, code: str, **members: Any) -> None:
        super().__init__(detail, code=code, members=members)


class VersionMismatch(ServiceError):
    """The object was edited since the caller read it: read it again, and decide."""

    code = "version_mismatch"

    def __init__(self, version: int, author: str | None, changed_at: datetime) -> None:
        at = changed_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        super().__init__(
            error_text(
                "Its version is %(version)s now; it was last changed%(by)s at %(at)s: "
                "read it again.",
                version=version,
                by="" if author is None else error_text(" by %(author)s", author=author),
                at=at,
            ),
            members={"current_version": version, "changed_by": author, "changed_at": at},
        )
        self.version, self.author, self.changed_at = version, author, changed_at


class NothingToMatch(ServiceError):
    """The caller requires a version of an object that does not exist."""

    code = "nothing_to_match"


class ContentTooLarge(ServiceError):
    """Send less at once."""

    code = "too_large"


class InvalidFields(ServiceError):
    """Values break rules; each field error says which value and which rule.

    The first MAX_REPORTED_ERRORS are kept. `total` counts those that were not even made.
    """

    code = "invalid_values"

    def __init__(self, *field_errors: FieldError, total: int | None = None) -> None:
        first = field_errors[0]
        location = first.parameter or first.pointer
        detail = first.detail
        if location:
            detail = error_text("%(location)s: %(detail)s", location=location, detail=detail)
        if total is None:
            total = len(field_errors)
        if total > 1:
            detail = error_text("%(first)s (and %(more)s more)", first=detail, more=total - 1)
        super().__init__(detail, field_errors=field_errors[:MAX_REPORTED_ERRORS])


class RateLimited(ServiceError):
    """Try again after `seconds`."""

    code = "rate_exceeded"

    def __init__(self, detail: ErrorText, *, seconds: int, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.seconds = seconds


class Unavailable(ServiceError):
    """A dependency cannot be reached; try again in a moment."""

    code = "unavailable"
