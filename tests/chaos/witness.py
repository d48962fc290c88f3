"""Watches the system while something is done to it, and judges what it did by what others saw.

The provider remembers every request with its time. Against that stand the product's own books:

* the invariant holds at every look, while the scenario runs and after it;
* only members of the audience are written to, with the text that was theirs;
* nothing arrives at or after the end, or outside the window (TRANSIT is allowed for the way);
* what is `sent` was accepted; what was accepted is `sent`, or pending, or ended in doubt;
* only what was in flight or unrecorded at a blow, or whose answer was lost, is handed off again,
  with the same id, phone and text; per blow at most the worker's slots and half a second's worth.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import psycopg2

from dev.provider.client import ProviderControl
from shared.windows import Window, is_open
from tests.books import wrong_books
from tests.system import System
from tests.waiting import wait_for

# A request is stamped when the provider has read it, some time after it left.
TRANSIT = 0.05
LOOK_EVERY = 0.5
# Accepted, but nobody was told in time.
LOST_ANSWERS = {"reset_after", "accepted_hang", "accepted_late", "drip"}
# How long before a blow an acceptance may have come that was not recorded by then.
UNRECORDED = 1.0

MAILINGS = """
SELECT id, extract(epoch FROM end_at)::float8, window_from, window_to FROM mailings
WHERE id = ANY (%s)
"""
MESSAGES = "SELECT id, mailing_id, status, in_doubt FROM messages WHERE mailing_id = ANY (%s)"


@dataclass
class Watched:
    """A mailing as the test made it. `phones` are its audience's, with each one's time zone."""

    id: int
    tag: str
    clients: int
    phones: dict[int, str]
    texts: set[str]
    end_at: float = float("inf")
    window: Window | None = None


@dataclass
class Verdict:
    """What a scenario did to the messages: a line of the table.

    `silence_s` is the longest pause between two arrivals, `latest_ms` how long after the end (or,
    below zero, before it) the last one came.
    """

    fault: str
    audience: int = 0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    latest_ms: float | None = None
    recovery_s: float | None = None
    silence_s: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


class Witness:
    """One scenario's watcher: `with` it, make mailings through it, tell it of each blow."""

    def __init__(self, system: System, fault: str, concurrency: int):
        self.system, self.verdict, self.concurrency = system, Verdict(fault), concurrency
        self.mailings: dict[int, Watched] = {}
        self.by_text: dict[str, Watched] = {}
        self.rows: list[dict[str, Any]] = []
        self.blows: list[float] = []
        self.cuts: list[float] = []
        self.unrecorded = UNRECORDED  # longer where PostgreSQL may be away before the blow
        self.wrong: list[str] = []
        self._first: dict[int, tuple[int, str]] = {}
        self._accepted: set[int] = set()
        self._seen = 0
        self._provider = ProviderControl(system.provider.base_url)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    # --- what a scenario tells -----------------------------------------------------------------

    def mailing(
        self, clients: int, zones: tuple[str, ...] = ("Europe/Moscow",), **fields: Any
    ) -> int:
        """Make a mailing to that many new clients of its own, watched from now on."""
        tag = uuid.uuid4().hex
        self.system.add_clients(clients, tag=tag, zones=zones)
        return self.mailing_to(tag, **fields)

    def mailing_to(self, tag: str, **fields: Any) -> int:
        """Make a mailing to the clients of that tag."""
        rows = self.system.query("SELECT phone, timezone FROM clients WHERE tag = %s", tag)
        text = fields.pop("text", f"{self.verdict.fault} {time.time()}")
        watched = Watched(0, tag, len(rows), dict(rows), {text})
        self.by_text[text] = watched
        watched.id = self.system.create_mailing(
            text=text, filter={"operator_codes": [], "tags": [tag]}, **fields
        )
        self.mailings[watched.id] = watched
        self.verdict.audience += watched.clients
        return watched.id

    def may_say(self, mailing_id: int, text: str) -> None:
        """The mailing's text is about to be changed."""
        self.mailings[mailing_id].texts.add(text)
        self.by_text[text] = self.mailings[mailing_id]

    def blow(self) -> float:
        """A worker was killed or stopped just now; that moment."""
        self.blows.append(time.time())
        return self.blows[-1]

    def cut(self) -> float:
        """The provider has dropped every connection just now, with the answers it owed."""
        self.cuts.append(time.time())
        return self.cuts[-1]

    # --- what a scenario asks ------------------------------------------------------------------

    def received(self) -> int:
        return int(self.system.provider.stats()["received"])

    def wait_received(self, count: int, seconds: float = 20.0) -> None:
        wait_for(lambda: self.received() >= count, seconds, f"{count} requests", every=0.02)

    def arrivals(self, after: float = 0.0, mailing_id: int | None = None) -> list[dict[str, Any]]:
        """What arrived after that moment, of that mailing or of all."""
        self._read()
        return [
            row
            for row in self.rows
            if row["at"] > after
            and (mailing_id is None or row["text"] in self.mailings[mailing_id].texts)
        ]

    def recovered(self, since: float, within: float) -> float:
        """Wait until something is accepted after `since`; how long after it that was."""

        def first() -> float:
            found = [row["at"] for row in self.arrivals(since) if row["answer"] == "accepted"]
            return found[0] - since if found else 0.0

        self.verdict.recovery_s = wait_for(first, within, "something to be accepted again")
        return self.verdict.recovery_s

    # --- watching ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.system.provider.forget()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._judge()
        elif self.wrong:
            error.add_note(f"the witness saw besides: {self.wrong[:5]}")
        self._provider.close()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            try:
                self._look()
            except psycopg2.OperationalError:
                continue  # a scenario may have taken PostgreSQL away
            except Exception as error:
                self._say(f"the witness failed: {error!r}")
                return

    def _look(self) -> None:
        with self.system.database() as cursor:
            books = wrong_books(cursor, after=min(self.mailings, default=1) - 1)
        if books:
            self._say(f"the books do not add up: {books[:5]}")
        # Before the provider is asked: what is `sent` by now was accepted before.
        statuses = self._statuses()
        self._read()
        for id_, (mailing_id, status, _) in statuses.items():
            if status == "sent" and id_ not in self._accepted:
                self._say(f"message {id_} of mailing {mailing_id} is sent, but was not accepted")

    def _statuses(self) -> dict[int, tuple[int, str, bool]]:
        rows = self.system.query(MESSAGES, list(self.mailings))
        return {id_: (mailing_id, status, doubt) for id_, mailing_id, status, doubt in rows}

    _reading = threading.Lock()

    def _read(self) -> None:
        """Take in what has arrived since."""
        with self._reading:
            for row in self._provider.requests(after=self._seen):
                self._seen = row["n"]
                self.rows.append(row)
                if row["accepted"]:
                    self._accepted.add(row["id"])
                if row["text"] is not None:  # else nobody read it
                    self._judge_content(row)

    def _judge_content(self, row: dict[str, Any]) -> None:
        watched = self.by_text.get(row["text"])
        if watched is None or row["phone"] not in watched.phones:
            self._say(f"not of the audience: {row}")
        content = self._first.setdefault(row["id"], (row["phone"], row["text"]))
        if content != (row["phone"], row["text"]):
            self._say(f"another content under the same id: {row}, first {content}")

    def _say(self, what: str) -> None:
        if what not in self.wrong:
            self.wrong.append(what)

    # --- judging -------------------------------------------------------------------------------

    def _judge(self) -> None:
        self._look()
        self._judge_times()
        self._judge_outcomes()
        self._judge_duplicates()
        self.verdict.silence_s = max(gaps([row["at"] for row in self.rows]), default=0.0)
        assert not self.wrong, "\n".join(self.wrong[:20])

    def _judge_times(self) -> None:
        for id_, end_at, start, end in self.system.query(MAILINGS, list(self.mailings)):
            self.mailings[id_].end_at = end_at
            self.mailings[id_].window = Window(start, end) if start is not None else None
        for row in self.rows:
            watched = self.by_text.get(row["text"])
            if watched is None or row["phone"] not in watched.phones:
                continue
            after = row["at"] - watched.end_at
            if after > -1 and after > (self.verdict.latest_ms or -1000) / 1000:
                self.verdict.latest_ms = round(after * 1000, 1)
            zone = watched.phones[row["phone"]]
            # Leaving before the window's close it may arrive just after it, but never before it
            # opens.
            left, arrived = (datetime.fromtimestamp(row["at"] - s, UTC) for s in (TRANSIT, 0))
            outside = not (is_open(watched.window, zone, left) or
                           is_open(watched.window, zone, arrived))  # fmt: skip
            if after >= TRANSIT or outside:
                self.verdict.late += 1
                self._say(f"{after:+.3f} s from its end, outside the window {outside}: {row}")

    def _judge_outcomes(self) -> None:
        statuses = self._statuses()
        audiences = Counter(mailing_id for mailing_id, _, _ in statuses.values())
        for watched in self.mailings.values():
            missing = watched.clients - audiences[watched.id]
            # A mailing that ended before it was launched has no messages at all.
            if missing and audiences[watched.id]:
                self.verdict.lost += missing
                self._say(f"mailing {watched.id}: {missing} clients have no message")
        for id_, (mailing_id, status, in_doubt) in statuses.items():
            accepted = id_ in self._accepted
            if status == "pending" or (status == "sent" and not accepted):
                self.verdict.lost += 1
                self._say(f"message {id_} of mailing {mailing_id} is {status}, {accepted=}")
            elif accepted and status != "sent" and not in_doubt:
                self._say(f"message {id_} was accepted, but is {status} without a doubt")

    def _judge_duplicates(self) -> None:
        times: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["accepted"]:
                times.setdefault(row["id"], []).append(row)
        by_blow: Counter[float] = Counter()
        for id_, rows in times.items():
            if len(rows) < 2:
                continue
            self.verdict.duplicated += 1
            for row in rows[:-1]:
                if row["answer"] in LOST_ANSWERS or self._moment_of(self.cuts, row["at"], 0):
                    continue
                blow = self._moment_of(self.blows, row["at"], self.unrecorded)
                if blow is None:
                    self._say(f"message {id_} was accepted again without a reason: {rows}")
                else:
                    by_blow[blow] += 1
        for blow, count in by_blow.items():
            recent = self._half_second_before(blow)
            bound = self.concurrency + recent
            self.verdict.notes[f"blow {self.blows.index(blow) + 1}"] = f"{count} of {bound}"
            if count > bound:
                self._say(f"{count} handed off again after one blow, at most {bound} may be")

    def _half_second_before(self, blow: float) -> int:
        """How many arrived in the last half second of sending before the blow."""
        times = [row["at"] for row in self.rows if blow - self.unrecorded <= row["at"] <= blow]
        last = max(times, default=blow) if self.unrecorded > UNRECORDED else blow
        return sum(last - 0.5 <= at <= last for at in times)

    def _moment_of(self, moments: list[float], at: float, before: float) -> float | None:
        """The moment at which what was accepted at `at` was in flight, or that little before."""
        latency = float(self.system.provider.stats()["settings"]["latency"]["max"])
        for moment in moments:
            if moment - before - latency - TRANSIT <= at <= moment + TRANSIT:
                return moment
        return None


def gaps(arrivals: Iterable[float]) -> list[float]:
    """The pauses between arrivals."""
    return [later - sooner for sooner, later in pairwise(sorted(arrivals))]
