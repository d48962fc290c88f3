"""Search logs for the lines about one mailing, message, client or request.

A line matches if it has the id, or a list or a range of ids that contains it. For a message, the
lines about claiming and releasing its batch are found as well.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

Line = dict[str, Any]

DURATION = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class LogQuery:
    """What a line must match: everything that is not None."""

    mailing: int | None = None
    message: int | None = None
    client: int | None = None
    request: str | None = None
    since: datetime | None = None

    @property
    def ids(self) -> dict[str, int]:
        ids = {"mailing": self.mailing, "message": self.message, "client": self.client}
        return {kind: id_ for kind, id_ in ids.items() if id_ is not None}


@dataclass
class LogSearch:
    """Collects the lines that match a query; `lines_read` counts all lines."""

    query: LogQuery
    lines_read: int = 0
    lines: list[Line] = field(default_factory=list)
    _batches: list[Line] = field(default_factory=list)

    def sorted_lines(self) -> list[Line]:
        """Return the matching lines in the order of their time."""
        own = {(line.get("mailing_id"), line.get("batch_id")) for line in self.lines}
        batches = [b for b in self._batches if (b["mailing_id"], b["batch_id"]) in own]
        return sorted([*self.lines, *batches], key=lambda line: str(line["ts"]))

    def read_lines(self, source: Iterable[str]) -> None:
        """Search the lines of a file or another iterable."""
        for text in source:
            self.lines_read += 1
            if not self._may_match(text):
                continue
            line = parse_line(text)
            if line is None or not self._is_recent(line):
                continue
            if matches_query(line, self.query):
                self.lines.append(line)
            elif self._is_about_batch(line):
                self._batches.append(line)

    def _may_match(self, text: str) -> bool:
        """Return False for a text that cannot match, without parsing it."""
        query = self.query
        if query.request is not None and query.request not in text:
            return False
        if query.message is not None and ('"batch.' in text or '"launch.chunk"' in text):
            return True
        return all(str(id_) in text for id_ in query.ids.values())

    def _is_recent(self, line: Line) -> bool:
        since = self.query.since
        return since is None or datetime.fromisoformat(line["ts"]) >= since

    def _is_about_batch(self, line: Line) -> bool:
        query = self.query
        return (
            query.message is not None
            and query.client is None
            and str(line["event"]).startswith("batch.")
            and query.mailing in (None, line.get("mailing_id"))
        )


def parse_line(text: str) -> Line | None:
    """Parse a line of this service, after any prefix of a log collector; else return None."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        line = orjson.loads(text[start:])
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and "ts" in line and "event" in line else None


def matches_query(line: Line, query: LogQuery) -> bool:
    if query.request is not None and line.get("request_id") != query.request:
        return False
    return all(_has_id(line, kind, id_) for kind, id_ in query.ids.items())


def _has_id(line: Line, kind: str, id_: int) -> bool:
    if line.get(f"{kind}_id") == id_ or id_ in (line.get(f"{kind}_ids") or ()):
        return True
    first, last = line.get(f"first_{kind}_id"), line.get(f"last_{kind}_id")
    return first is not None and last is not None and first <= id_ <= last


def parse_since(text: str, now: datetime) -> datetime:
    """Parse a time before `now` (10m, 2h, 1d), or an instant (in UTC if it has no offset)."""
    if match := DURATION.fullmatch(text):
        return now - timedelta(**{UNITS[match[2]]: int(match[1])})
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def format_json(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        yield orjson.dumps(line).decode()
