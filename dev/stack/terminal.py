"""The stack's output: one prefixed line per log record that a person should see."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
_LEVEL_COLOURS = {"title": 1, "warning": 33, "error": 31, "critical": 31}
_NOT_DETAILS = {"ts", "level", "event", "service", "request_id", "job_id", "exception"}
_MAX_DETAILS = 8  # fields after the event; the log file has all
_MAX_LINES_PER_SECOND = 20  # of one process
_TRACEBACK_STARTS = (b"Traceback (", b"During handling of", b"The above exception")
_READ_BYTES = 8 * 1024 * 1024
_ROTATE_BYTES = 64 * 1024 * 1024


class Terminal:
    """Prefixed lines on a stream; in colour if that is a terminal."""

    def __init__(self, stream: TextIO | None = None, width: int = 10) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._width = width
        self._names: dict[str, int] = {}

    def report(self, text: str) -> None:
        """Print a line about the stack itself."""
        self.print_line("stack", text, "title")

    def print_line(self, name: str, text: str, level: str = "info") -> None:
        text = escape_controls(text)
        colour = self._names.setdefault(name, _COLOURS[len(self._names) % len(_COLOURS)])
        if level in _LEVEL_COLOURS:
            text = self._paint(text, _LEVEL_COLOURS[level])
        self.write(f"{self._paint(f'{name:<{self._width}} |', colour)} {text}\n")

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a closed terminal; the stack must still be stopped in order

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


class LogFollower:
    """Follows one process's log file and prints its important records."""

    def __init__(self, name: str, path: Path, terminal: Terminal) -> None:
        self.path = path
        self._name = name
        self._terminal = terminal
        self._rest = b""
        self._second = 0
        self._printed = self._hidden = 0  # lines in this second
        self._in_traceback = False
        self._offset = path.stat().st_size if path.exists() else 0
        self._rotate()

    def follow(self) -> None:
        """Print what has been written since the last call."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # truncated from outside
                    self._offset = 0
                file.seek(self._offset)
                data = file.read(_READ_BYTES)
        except FileNotFoundError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if int(time.monotonic()) != self._second:
            self._start_second()
        for line in lines:
            self._print(line)
        if len(data) < _READ_BYTES:
            self._rotate()

    def _start_second(self) -> None:
        if self._hidden:
            hidden = f"… and {self._hidden:,} more lines in {self.path}"
            self._terminal.print_line(self._name, hidden)
        self._second = int(time.monotonic())
        self._printed = self._hidden = 0

    def _print(self, line: bytes) -> None:
        if b'"message.attempt"' in line and b'"accepted"' in line:
            return  # one per message, many thousands a second: skip without parsing
        # Of a traceback, only the last line is printed, which names the error.
        self._in_traceback = line.startswith(_TRACEBACK_STARTS) or (
            self._in_traceback and line.startswith(b" ")
        )
        if self._in_traceback:
            return
        summary = summarise(line.decode(errors="replace"))
        if summary is None:
            return
        if self._printed >= _MAX_LINES_PER_SECOND:
            self._hidden += 1
            return
        self._printed += 1
        level, text = summary
        self._terminal.print_line(self._name, text, level)

    def _rotate(self) -> None:
        """Move a long log aside (NAME.log.1). The program appends, so it goes on at the start."""
        if self._offset > _ROTATE_BYTES:
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
            os.truncate(self.path, 0)
            self._offset = 0


def escape_controls(text: str) -> str:
    """Escape what would move the cursor, change colours or reorder text in a terminal.

    A line may contain what a stranger has sent: the subject of a mail, an answer of the provider.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def summarise(line: str) -> tuple[str, str] | None:
    """Return a log line as (level, text) for the terminal, or None if it is routine."""
    if not line.strip():
        return None
    try:
        record: dict[str, Any] = json.loads(line)
        event = str(record["event"])
    except (ValueError, TypeError, KeyError):
        return "info", line
    level = str(record.get("level", "info")).lower()
    if level == "debug" or (level == "info" and _is_routine(event, record)):
        return None
    if event == "process.demo":
        return None  # the greeting says it once for all processes
    details = [
        f"{key}={_shorten(value)}"
        for key, value in record.items()
        if key not in _NOT_DETAILS and isinstance(value, str | int | float) and value != ""
    ]
    words = [level.upper(), event, *details[:_MAX_DETAILS]]
    if record.get("exception"):
        words.append("· " + _shorten(record["exception"]))
    return level, " ".join(words)


def _shorten(value: Any) -> str:
    """Return a value's last line: of a traceback, that names the error."""
    lines = str(value).strip().splitlines() or [""]
    return lines[-1][:200]


def _is_routine(event: str, record: dict[str, Any]) -> bool:
    if event == "message.attempt":
        return record.get("outcome") == "accepted"
    if event == "api.request":
        return int(record.get("status") or 0) < 400
    return event.startswith("library.")
