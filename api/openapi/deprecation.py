"""Deprecated operations: how their answers and the OpenAPI document announce their end.

The headers are Deprecation (RFC 9745) and Sunset (RFC 8594). docs/api.md states the policy.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from flask import Response, after_this_request

View = TypeVar("View", bound=Callable[..., Any])

# Callers have this long to move to what replaces an operation.
MIN_NOTICE = timedelta(days=180)
HEADER_DESCRIPTIONS = {
    "Deprecation": {
        "description": "Since when the operation is deprecated (RFC 9745).",
        "schema": {"type": "string", "examples": ["@1893456000"]},
    },
    "Sunset": {
        "description": "When the operation ends at the earliest (RFC 8594).",
        "schema": {"type": "string", "examples": ["Mon, 01 Jul 2030 00:00:00 GMT"]},
    },
}


class Deprecation(NamedTuple):
    """Since when an operation is deprecated, when it ends (UTC), and what to use instead."""

    since: date
    sunset: date
    instead: str

    def headers(self) -> dict[str, str]:
        """Return the headers of the operation's answers."""
        since, sunset = (datetime.combine(day, time(), UTC) for day in (self.since, self.sunset))
        return {
            "Deprecation": f"@{int(since.timestamp())}",
            "Sunset": format_datetime(sunset, usegmt=True),
        }

    def describe(self, operation: dict[str, Any]) -> None:
        """Mark the operation in the OpenAPI document."""
        operation["deprecated"] = True
        note = f"Deprecated since {self.since}, ends on {self.sunset}: {self.instead}"
        operation["description"] = f"{operation['description']}\n\n{note}".strip()
        for response in operation["responses"].values():
            response["headers"] |= HEADER_DESCRIPTIONS


def announce(view: View, deprecation: Deprecation) -> View:
    """Return the view with the headers on each of its answers, those of errors too.

    Raise ValueError if callers would have less than MIN_NOTICE.
    """
    if deprecation.sunset - deprecation.since < MIN_NOTICE:
        raise ValueError(f"a deprecated operation lives for {MIN_NOTICE.days} days at least")
    headers = deprecation.headers()

    @wraps(view)
    def announcing_view(*arguments: Any, **named: Any) -> Any:
        @after_this_request
        def add_headers(response: Response) -> Response:
            response.headers.update(headers)
            return response

        return view(*arguments, **named)

    return announcing_view  # type: ignore[return-value]
