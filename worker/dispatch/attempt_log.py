"""The log line of each request to the provider: thousands a second, so written in bulk.

Nearly every line says that a message was accepted. Such a line is formatted as bytes; a test
compares it with what structlog would have written.
"""

from collections.abc import Callable
from typing import Any

from shared.logging.log_config import format_timestamp, write_log_lines
from shared.logging.redaction import redact_answer
from worker.dispatch.leased_batch import LeasedBatch, OutgoingMessage
from worker.provider.http.client import Result
from worker.provider.outcomes import Outcome

_ACCEPTED = (
    b'{"ts":"%b","level":"info","event":"message.attempt",%b"message_id":%d,"client_id":%d,'
    b'"attempt":%d,"outcome":"accepted","http_status":200,"latency_ms":%.1f,"service":"dispatch"}'
)


class AttemptLog:
    """Collects lines until `write`."""

    def __init__(self, write: Callable[[list[Any]], None] = write_log_lines) -> None:
        self._write = write
        self._lines: list[dict[str, Any] | bytes] = []
        self._at = 0.0
        self._timestamp = b""

    def add(
        self, batch: LeasedBatch, request: OutgoingMessage, result: Result[OutgoingMessage]
    ) -> None:
        """Add the line of a request that was sent or failed; not for `not_sent` ones."""
        at = result.finished_at
        if at != self._at:  # the same for all that ended together
            self._at, self._timestamp = at, format_timestamp(at).encode()
        if result.outcome is Outcome.ACCEPTED and not request.probe:
            row = request.row
            self._lines.append(
                _ACCEPTED
                % (
                    self._timestamp,
                    batch.log_fields_json,
                    row.message_id,
                    row.client_id,
                    row.attempts + 1,
                    result.latency * 1000,
                )
            )
        else:
            self._lines.append(attempt_fields(batch, request, result))

    def write(self) -> None:
        """Write the collected lines."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(lines)


def attempt_fields(
    batch: LeasedBatch, request: OutgoingMessage, result: Result[OutgoingMessage]
) -> dict[str, Any]:
    """Return the fields of a request's log line."""
    line = {
        "ts": format_timestamp(result.finished_at),
        "level": "info" if result.outcome is Outcome.ACCEPTED else "warning",
        "event": "message.attempt",
        **batch.log_fields,
        "message_id": request.message_id,
        "client_id": request.row.client_id,
        "attempt": request.row.attempts + 1,
        "outcome": result.outcome,
        "http_status": result.http_status,
        "latency_ms": round(result.latency * 1000, 1),
        "service": "dispatch",
    }
    if result.outcome is not Outcome.ACCEPTED:
        text = batch.plain_text if request.text is None else request.text
        line |= {"reason": result.reason, "answer": redact_answer(result.excerpt, text or "")}
    if request.probe:
        line["probe"] = True
    return line
