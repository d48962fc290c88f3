"""What a person sees of the stack: one prefixed line per event, and not every message's."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
_LEVEL_COLOURS = {"warning": 33, "error": 31, "critical": 31}
_NOT_DETAILS = {"ts", "level", "event", "service", "request_id", "job_id", "exception"}
_DETAILS = 8  # fields after the event; the log file has them all
_LINES_A_SECOND = 20  # of one process
_READ = 8 * 1024 * 1024
ROTATE_AT = 50 * 1024 * 1024
_NEVER_BEYOND = 256 * 1024 * 1024


class Terminal:
    """Prefixed lines on a stream; in colour only where a person looks at it."""

    def __init__(self, stream: TextIO | None = None, width: int = 10) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._width = width
        self._names: dict[str, int] = {}

    def say(self, text: str) -> None:
        """A line of the stack's own."""
        self.line("stack", text, bold=True)

    def line(self, name: str, text: str, level: str = "info", bold: bool = False) -> None:
        colour = self._names.setdefault(name, _COLOURS[len(self._names) % len(_COLOURS)])
        prefix = self._paint(f"{name:<{self._width}} |", str(colour))
        if level in _LEVEL_COLOURS:
            text = self._paint(text, str(_LEVEL_COLOURS[level]))
        elif bold:
            text = self._paint(text, "1")
        self.write(f"{prefix} {text}\n")

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody is looking any more; the stack must still be stopped in good order

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


class LogView:
    """Follows one process's log file and shows a person's share of it on the terminal."""

    def __init__(self, name: str, path: Path, terminal: Terminal) -> None:
        self._name = name
        self._path = path
        self._terminal = terminal
        self._rest = b""
        self._second = 0
        self._shown = 0
        self._hidden = 0
        rotate(path, ROTATE_AT)
        self._offset = path.stat().st_size if path.exists() else 0

    def follow(self) -> None:
        """Show what has been written since the last call."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                data = file.read(_READ)
        except FileNotFoundError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line)
        self._tell_hidden()
        if size > _NEVER_BEYOND and self._offset >= size:
            rotate(self._path, _NEVER_BEYOND)

    def _show(self, line: bytes) -> None:
        if b'"message.attempt"' in line and b'"accepted"' in line:
            return  # one per message, many thousands a second: not worth parsing
        shown = summary(line.decode(errors="replace"))
        if shown is None:
            return
        second = int(time.monotonic())
        if second != self._second:
            self._tell_hidden(now=second)
            self._second, self._shown = second, 0
        if self._shown >= _LINES_A_SECOND:
            self._hidden += 1
            return
        self._shown += 1
        level, text = shown
        self._terminal.line(self._name, text, level)

    def _tell_hidden(self, now: int | None = None) -> None:
        if self._hidden and (now or int(time.monotonic())) != self._second:
            self._terminal.line(self._name, f"… and {self._hidden:,} more lines in {self._path}")
            self._hidden = 0


def summary(line: str) -> tuple[str, str] | None:
    """A log line as (level, text) for the terminal; None when it is not worth a person's time."""
    if not line.strip():
        return None
    try:
        record: dict[str, Any] = json.loads(line)
        event = str(record["event"])
    except (ValueError, TypeError, KeyError):
        return "info", line
    level = str(record.get("level", "info")).lower()
    if level == "debug":
        return None
    if level == "info" and _is_routine(event, record):
        return None
    details = [
        f"{key}={_one_line(value)}"
        for key, value in record.items()
        if key not in _NOT_DETAILS and isinstance(value, str | int | float) and value != ""
    ]
    words = [level.upper(), event, *details[:_DETAILS]]
    if record.get("exception"):
        words.append("· " + _one_line(record["exception"]))
    return level, " ".join(words)


def _one_line(value: Any) -> str:
    """A value in little room; of a traceback, its last line says what happened."""
    lines = str(value).strip().splitlines() or [""]
    return lines[-1][:200]


def _is_routine(event: str, record: dict[str, Any]) -> bool:
    """Whether it happens all the time and tells nothing: the log file has it."""
    if event == "message.attempt":
        return record.get("outcome") == "accepted"
    if event == "api.request":
        return int(record.get("status") or 0) < 400
    return event.startswith("library.")


def rotate(path: Path, beyond: int) -> None:
    """Move a long log aside (NAME.log.1). Its writers append, so they go on at the beginning."""
    if path.exists() and path.stat().st_size > beyond:
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
