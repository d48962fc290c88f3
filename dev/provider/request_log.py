"""The provider's log of requests: every message in order of arrival, in compact columns."""

import hashlib
import time
from array import array
from collections import Counter
from collections.abc import Iterator

import orjson

from dev.provider.faults import ANSWERS

_NAMES = tuple(ANSWERS)
_CODES = {name: code for code, name in enumerate(_NAMES)}
_ACCEPTS = tuple(answer.accepts for answer in ANSWERS.values())

_ROWS_PER_PART = 500


class RequestLog:
    """What arrived and what was answered. A row is written once, on arrival, and never changed."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        # New columns, not emptied ones: a listing under way goes on with those it began with.
        self._at = array("d")
        self._ids = array("q")
        self._phones = array("q")
        self._texts = array("I")
        self._answers = array("B")
        self._request_ids: dict[int, str] = {}
        # Entry 0 stands for "no readable body", where the phone is unknown too.
        self._text_of: list[str | None] = [None]
        self._text_number: dict[str | None, int] = {None: 0}
        self._counts = [0] * len(_NAMES)
        self._accepted_ids: set[int] = set()
        self._times_accepted: dict[int, int] = {}  # of the ids accepted more than once
        self.received = self.accepted = 0
        self.stray: Counter[str] = Counter()  # requests that are not messages

    def record(
        self,
        message_id: int,
        content: tuple[int, str] | None,
        answer: str,
        request_id: str | None,
    ) -> None:
        """Add a message that has just arrived; `content` is its phone and text."""
        phone, text = content if content is not None else (0, None)
        number = self._text_number.get(text)
        if number is None:
            number = self._text_number[text] = len(self._text_of)
            self._text_of.append(text)
        if request_id is not None:
            self._request_ids[self.received] = request_id
        code = _CODES[answer]
        self._at.append(time.time())
        self._ids.append(message_id)
        self._phones.append(phone)
        self._texts.append(number)
        self._answers.append(code)
        self._counts[code] += 1
        self.received += 1
        if _ACCEPTS[code]:
            self.accepted += 1
            if message_id in self._accepted_ids:
                self._times_accepted[message_id] = self._times_accepted.get(message_id, 1) + 1
            self._accepted_ids.add(message_id)

    def counters(self) -> dict[str, object]:
        """Return the totals; `refused` counts the others by what was answered instead."""
        return {
            "received": self.received,
            "accepted": self.accepted,
            "distinct": len(self._accepted_ids),
            "duplicates": self.accepted - len(self._accepted_ids),
            "refused": {
                name: count
                for name, count, accepts in zip(_NAMES, self._counts, _ACCEPTS, strict=True)
                if count and not accepts
            },
            "stray": dict(self.stray),
        }

    def rows(self, after: int, limit: int | None) -> Iterator[bytes]:
        """Yield the requests numbered above `after` as JSON lines, some at a time."""
        columns = (self._at, self._ids, self._phones, self._texts, self._answers)
        text_of, request_ids = self._text_of, self._request_ids
        end = self.received if limit is None else min(self.received, after + limit)
        for start in range(after, end, _ROWS_PER_PART):
            stop = min(start + _ROWS_PER_PART, end)
            lines = []
            for n, (at, message_id, phone, text, code) in enumerate(
                zip(*(column[start:stop] for column in columns), strict=True), start
            ):
                row = {
                    "n": n + 1,
                    "at": at,
                    "id": message_id,
                    "phone": phone if text else None,
                    "text": text_of[text],
                    "answer": _NAMES[code],
                    "accepted": _ACCEPTS[code],
                }
                if n in request_ids:
                    row["request_id"] = request_ids[n]
                lines.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            yield b"".join(lines)

    def accepted_ids(self) -> Iterator[bytes]:
        """Yield the distinct accepted ids, ascending, one a line, some at a time."""
        ids = sorted(self._accepted_ids)
        for start in range(0, len(ids), _ROWS_PER_PART):
            yield "".join(f"{number}\n" for number in ids[start : start + _ROWS_PER_PART]).encode()

    def duplicates(self) -> Iterator[bytes]:
        """Yield the ids accepted more than once and how often, as JSON lines."""
        for message_id, times in sorted(self._times_accepted.items()):
            row = {"id": message_id, "times": times}
            yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)

    def summary(self) -> Iterator[bytes]:
        """Yield empty parts while the digest of the ids is computed, then the totals."""
        digest = hashlib.sha256()
        for part in self.accepted_ids():
            digest.update(part)
            yield b""
        answers = zip(_NAMES, self._counts, strict=True)
        yield orjson.dumps(
            {
                **self.counters(),
                "answers": {name: count for name, count in answers if count},
                "first_at": self._at[0] if self._at else None,
                "last_at": self._at[-1] if self._at else None,
                "texts": len(self._text_of) - 1,
                "accepted_ids_sha": digest.hexdigest(),
            }
        )
