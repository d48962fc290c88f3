"""Watches the system while something is done to it, and judges what it did by what others saw.

The provider remembers every request with its time. Against that stand the product's own books:

* the invariant holds at every look, while the scenario runs and after it;
* only members of the audience are written to, each under one id, with the text that was theirs;
* nothing arrives at or after the end, or outside the window (TRANSIT is allowed for the way);
* what is `sent` was accepted; what was accepted is `sent`, or pending, or ended in doubt;
* only what was in flight or unrecorded at a blow, or whose answer was lost, is handed off again,
  with the same id, phone and text; per blow at most the worker's slots and half a second's worth.
"""

import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import psycopg2

from dev.provider.client import ProviderControl
from shared.domain.send_windows import Window
from tests.chaos.assertions import (
    UNRECORDED,
    Repeats,
    Row,
    Statuses,
    Verdict,
    Watched,
    judge_outcomes,
    judge_recipients,
    judge_times,
)
from tests.support.invariants import find_wrong_totals
from tests.support.system import System
from tests.support.waiting import wait_for

LOOK_EVERY = 0.5

MAILINGS = """
SELECT id, extract(epoch FROM end_at)::float8, window_from, window_to FROM mailings
WHERE id = ANY (%s)
"""
MESSAGES = "SELECT id, mailing_id, status, in_doubt FROM messages WHERE mailing_id = ANY (%s)"
# Waited for to the end in vain: on a machine that is too busy even a good provider loses answers.
TIMED_OUT = """
SELECT DISTINCT message_id FROM attempts
WHERE mailing_id = ANY (%s) AND reason = 'timeout' AND latency_ms >= 1900
"""


class Witness:
    """One scenario's watcher: `with` it, make mailings through it, tell it of each blow."""

    def __init__(self, system: System, fault: str, concurrency: int):
        self.system, self.verdict, self.concurrency = system, Verdict(fault), concurrency
        self.mailings: dict[int, Watched] = {}
        self.by_text: dict[str, Watched] = {}
        self.rows: list[Row] = []
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

    def arrivals(self, after: float = 0.0, mailing_id: int | None = None) -> list[Row]:
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
        self.system.provider.clear_requests()
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
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                continue  # a scenario may have taken PostgreSQL away
            except Exception as error:
                self._say(f"the witness failed: {error!r}")
                return

    def _look(self) -> None:
        with self.system.database() as cursor:
            books = find_wrong_totals(cursor, after=min(self.mailings, default=1) - 1)
        if books:
            self._say(f"the books do not add up: {books[:5]}")
        # Before the provider is asked: what is `sent` by now was accepted before.
        statuses = self._statuses()
        self._read()
        for id_, (mailing_id, status, _) in statuses.items():
            if status == "sent" and id_ not in self._accepted:
                self._say(f"message {id_} of mailing {mailing_id} is sent, but was not accepted")

    def _statuses(self) -> Statuses:
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

    def _judge_content(self, row: Row) -> None:
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
        for id_, end_at, start, end in self.system.query(MAILINGS, list(self.mailings)):
            self.mailings[id_].end_at = end_at
            self.mailings[id_].window = Window(start, end) if start is not None else None
        made = list(self.mailings.values())
        judge_times(self.rows, self.by_text, self.verdict, self._say)
        judge_outcomes(self._statuses(), self._accepted, made, self.verdict, self._say)
        judge_recipients(self.rows, self.by_text, self._say)
        latency = self.system.provider.stats()["settings"]["latency"]["max"]
        timed_out = {id_ for (id_,) in self.system.query(TIMED_OUT, list(self.mailings))}
        again = Repeats(
            self.rows, self.blows, self.cuts, timed_out, latency=latency, unrecorded=self.unrecorded
        )
        again.judge(self.concurrency, self.verdict, self._say)
        assert not self.wrong, "\n".join(self.wrong[:20])
