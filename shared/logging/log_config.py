"""Configures logging: one JSON object per line on stdout, for this code and for libraries.

Fields are `ts` (UTC), `level`, `event` (dotted), `service`, and ids under the same names
everywhere: `request_id`, `job_id`, `mailing_id`, `message_id`, `client_id`, `batch_id`. Phones are
masked; message texts and tokens never appear. events.py lists every `event`; docs/logging.md is the
reference.
"""

import io
import logging
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.logging.redaction import redact

_console_renderer: Processor | None = None

# Libraries whose INFO lines are noise, or contain addresses and values: the lowest level logged.
LIBRARY_LEVELS = {
    "rq.worker": "WARNING",
    "rq.queue": "WARNING",
    "rq_scheduler": "ERROR",
    "alembic.runtime.plugins": "WARNING",
    "flask_pydantic_spec": "WARNING",
}


class _Stdout(io.TextIOBase):
    """The standard output at the time of writing, as tests that capture output replace it."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


STDOUT = cast(TextIO, _Stdout())


def format_timestamp(at: float | None = None) -> str:
    """Format an instant (seconds since the epoch; now if None): UTC with milliseconds."""
    second, milliseconds = divmod(int((time.time() if at is None else at) * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03}Z"


@lru_cache(maxsize=16)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def configure_logging(service: str, level: str = "INFO", log_format: str = "json") -> None:
    """Set up structlog and the standard library's logging for this process."""

    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {
            "ts": format_timestamp(),
            "level": event.pop("level", "info"),
            "event": event.pop("event", None),
            **event,
            "service": service,
        }

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.format_exc_info,
        _redact_event,
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
        logger_factory=structlog.WriteLoggerFactory(STDOUT),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(STDOUT)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
            foreign_pre_chain=[*shared[:-2], _library_event, *shared[-2:]],
        )
    )
    global _console
    _console_renderer = renderer if log_format == "console" else None
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(least)


def write_log_lines(events: Iterable[dict[str, Any] | bytes]) -> None:
    """Write many complete events at once without the logging stack, for the sending loop.

    An event given as bytes is a line of JSON.
    """
    sys.stdout.flush()
    if _console_renderer is None:
        lines = [event if isinstance(event, bytes) else _json(event) for event in events]
        sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    else:
        for event in events:
            fields = orjson.loads(event) if isinstance(event, bytes) else event
            line = str(_console_renderer(None, "", fields))
            sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.flush()


def _redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Redact all fields but ids, whose digits must not be taken for a phone."""
    return {
        name: value if name == "event" or name.endswith(("_id", "_ids")) else redact(value)
        for name, value in event.items()
    }


def _library_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event["_record"]
    return {**event, "event": f"library.{record.name}", "message": event["event"]}


def _json(event: Any) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)
