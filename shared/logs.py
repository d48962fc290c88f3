"""Logs: one JSON object per line on stdout, in one vocabulary, from our code and libraries alike.

`ts` (UTC), `level`, `event` (dotted), `service`, and ids under the same names everywhere:
`request_id`, `job_id`, `mailing_id`, `message_id`, `client_id`, `batch_id`. Phones appear masked,
message texts and tokens never.
"""

import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Libraries that say at INFO what a person need not read, or say it with addresses and values.
QUIET = {
    "rq.worker": "WARNING",
    "rq.queue": "WARNING",
    "rq_scheduler": "ERROR",
    "alembic.runtime.plugins": "WARNING",
    "flask_pydantic_spec": "WARNING",
}


def timestamp(at: float | None = None) -> str:
    """An instant (seconds since the epoch; now if None) as the logs write it: UTC, milliseconds."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mask(phone: int | str) -> str:
    """A phone as the logs may show it: 79161234567 becomes 7916***4567."""
    digits = str(phone)
    return f"{digits[:4]}***{digits[-4:]}"


def configure(service: str, level: str = "INFO", log_format: str = "json") -> None:
    """Set up structlog and the standard library's logging for this process."""

    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {
            "ts": timestamp(),
            "level": event.pop("level", "info"),
            **event,
            "service": service,
        }

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        stamp,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
        if log_format == "console"
        else structlog.processors.JSONRenderer(lambda event, **_: _json(event).decode())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
            foreign_pre_chain=[*shared, _library_event],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


def write_lines(events: Iterable[dict[str, Any]]) -> None:
    """Write many ready-made events at once, past the logging stack: for the sending loop."""
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(_json(event) + b"\n" for event in events))
    sys.stdout.buffer.flush()


def _library_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event["_record"]
    return {**event, "event": f"library.{record.name}", "message": event["event"]}


def _json(event: Any) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)
