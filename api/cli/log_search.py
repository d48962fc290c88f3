"""Finds in the logs what happened to one mailing, message, client or request, in order.

A line belongs to the story if it carries the id, or a list or a range of ids with this one in it.
A message's story also tells when its batch was taken in hand and given back.
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
class Question:
    """Whose story is asked for. What is given must all be true of a line."""

    mailing: int | None = None
    message: int | None = None
    client: int | None = None
    request: str | None = None
    since: datetime | None = None

    @property
    def ids(self) -> dict[str, int]:
        given = {"mailing": self.mailing, "message": self.message, "client": self.client}
        return {kind: id_ for kind, id_ in given.items() if id_ is not None}


@dataclass
class Story:
    """Lines that answer a question; `read` counts all that were looked at."""

    question: Question
    read: int = 0
    lines: list[Line] = field(default_factory=list)
    _batches: list[Line] = field(default_factory=list)

    def tell(self) -> list[Line]:
        """The lines found, in the order of their time."""
        own = {(line.get("mailing_id"), line.get("batch_id")) for line in self.lines}
        batches = [b for b in self._batches if (b["mailing_id"], b["batch_id"]) in own]
        return sorted([*self.lines, *batches], key=lambda line: str(line["ts"]))

    def take(self, source: Iterable[str]) -> None:
        """Look at a file's lines, or whatever else gives some."""
        for text in source:
            self.read += 1
            if not self._may_belong(text):
                continue
            line = parse(text)
            if line is None or not self._recent(line):
                continue
            if belongs(line, self.question):
                self.lines.append(line)
            elif self._tells_of_a_batch(line):
                self._batches.append(line)

    def _may_belong(self, text: str) -> bool:
        """A cheap look: most of a big log need not be parsed."""
        asked = self.question
        if asked.request is not None and asked.request not in text:
            return False
        if asked.message is not None and ('"batch.' in text or '"launch.chunk"' in text):
            return True
        return all(str(id_) in text for id_ in asked.ids.values())

    def _recent(self, line: Line) -> bool:
        since = self.question.since
        return since is None or datetime.fromisoformat(line["ts"]) >= since

    def _tells_of_a_batch(self, line: Line) -> bool:
        asked = self.question
        return (
            asked.message is not None
            and asked.client is None
            and str(line["event"]).startswith("batch.")
            and asked.mailing in (None, line.get("mailing_id"))
        )


def parse(text: str) -> Line | None:
    """A line of ours, whatever a log collector has put before it; None for anything else."""
    begin = text.find("{")
    if begin < 0:
        return None
    try:
        line = orjson.loads(text[begin:])
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and "ts" in line and "event" in line else None


def belongs(line: Line, question: Question) -> bool:
    if question.request is not None and line.get("request_id") != question.request:
        return False
    return all(_carries(line, kind, id_) for kind, id_ in question.ids.items())


def _carries(line: Line, kind: str, id_: int) -> bool:
    if line.get(f"{kind}_id") == id_ or id_ in (line.get(f"{kind}_ids") or ()):
        return True
    first, last = line.get(f"first_{kind}_id"), line.get(f"last_{kind}_id")
    return first is not None and last is not None and first <= id_ <= last


def instant(text: str, now: datetime) -> datetime:
    """`10m`, `2h`, `1d` ago, or an RFC 3339 instant (UTC if it does not say)."""
    if match := DURATION.fullmatch(text):
        return now - timedelta(**{UNITS[match[2]]: int(match[1])})
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def as_json(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        yield orjson.dumps(line).decode()
