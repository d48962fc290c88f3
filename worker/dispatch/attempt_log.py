"""The log's line of each request to the provider: many a second, so made ready and written in bulk.

Nearly every line says that a message was accepted. Such a line is put together from bytes; a test
holds it against what the logging of everything else would have made of it.
"""

from collections.abc import Callable
from typing import Any

from shared.logging.log_config import format_timestamp, write_log_lines
from shared.logging.redaction import redact_answer
from worker.dispatch.leased_batch import HeldBatch, Outgoing
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
        self._ts = b""

    def add(self, batch: HeldBatch, request: Outgoing, result: Result[Outgoing]) -> None:
        """Note a request that has ended; `not_sent` ones are not worth a line."""
        at = result.finished_at
        if at != self._at:  # the same for all that ended together
            self._at, self._ts = at, format_timestamp(at).encode()
        if result.outcome is Outcome.ACCEPTED and not request.probe:
            row = request.row
            self._lines.append(
                _ACCEPTED
                % (
                    self._ts,
                    batch.log_ids,
                    row.message_id,
                    row.client_id,
                    row.attempts + 1,
                    result.latency * 1000,
                )
            )
        else:
            self._lines.append(describe(batch, request, result))

    def write(self) -> None:
        """Write down what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(lines)


def describe(batch: HeldBatch, request: Outgoing, result: Result[Outgoing]) -> dict[str, Any]:
    """The line's fields."""
    line = {
        "ts": format_timestamp(result.finished_at),
        "level": "info" if result.outcome is Outcome.ACCEPTED else "warning",
        "event": "message.attempt",
        **batch.ids,
        "message_id": request.message_id,
        "client_id": request.row.client_id,
        "attempt": request.row.attempts + 1,
        "outcome": result.outcome,
        "http_status": result.http_status,
        "latency_ms": round(result.latency * 1000, 1),
        "service": "dispatch",
    }
    if result.outcome is not Outcome.ACCEPTED:
        text = batch.plain if request.text is None else request.text
        line |= {"reason": result.reason, "answer": redact_answer(result.excerpt, text or "")}
    if request.probe:
        line["probe"] = True
    return line
