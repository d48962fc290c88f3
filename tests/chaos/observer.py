"""Observe the system during a scenario and check it against the requests the provider received.

The provider lists every request with its time. The observer checks, in `assertions`, that

* the totals are right at every check, during the scenario and after it;
* only clients of the audience get a message, each under one id and with the text of its mailing;
* no request arrives at or after the end, or outside the window (TRANSIT_SECONDS are permitted);
* what is `sent` was accepted; what was accepted is `sent`, or pending, or has ended in doubt;
* only messages that were in flight or unrecorded at a worker's failure, or whose answer was lost,
  are sent again, with the same id, phone and text; after each failure at most as many as a worker
  has in flight and sends in half a second, after a kill at most as many as it has in flight.
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
    UNRECORDED_SECONDS,
    MailingsByText,
    ObservedMailing,
    Repeats,
    RequestRow,
    ScenarioResult,
    Statuses,
    check_outcomes,
    check_recipients,
    check_times,
)
from tests.support.invariants import find_wrong_totals
from tests.support.system import System
from tests.support.waiting import wait_for

CHECK_INTERVAL_SECONDS = 0.5

READ_MAILINGS = """
SELECT id, extract(epoch FROM end_at)::float8, window_from, window_to FROM mailings
WHERE id = ANY (%s)
"""
READ_MESSAGES = "SELECT id, mailing_id, status, in_doubt FROM messages WHERE mailing_id = ANY (%s)"
# Requests that timed out: on a machine that is too busy a working provider may lose answers, too.
FIND_TIMED_OUT = """
SELECT DISTINCT message_id FROM attempts
WHERE mailing_id = ANY (%s) AND reason = 'timeout' AND latency_ms >= 1900
"""


class Observer:
    """Observes one scenario, as a context manager.

    The scenario creates its mailings through the observer and marks each failure it causes.
    """

    def __init__(self, system: System, fault: str, concurrency: int):
        self.system, self.result, self.concurrency = system, ScenarioResult(fault), concurrency
        self.mailings: dict[int, ObservedMailing] = {}
        self.by_text: MailingsByText = {}
        self.rows: list[RequestRow] = []
        self.failures: list[float] = []
        self.kills: set[float] = set()  # those of `failures` whose journals outlived the worker
        self.disconnects: list[float] = []
        self.unrecorded = UNRECORDED_SECONDS  # more if PostgreSQL may be down before a failure
        self.violations: list[str] = []
        self._first_content: dict[int, tuple[int, str]] = {}
        self._accepted: set[int] = set()
        self._last_request = 0
        self._read_lock = threading.Lock()
        self._provider = ProviderControl(system.provider.base_url)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._observe, name="observer", daemon=True)

    # --- mailings and failures of the scenario -------------------------------------------------

    def create_mailing(
        self, clients: int, zones: tuple[str, ...] = ("Europe/Moscow",), **fields: Any
    ) -> int:
        """Create an observed mailing to this number of new clients."""
        tag = uuid.uuid4().hex
        self.system.add_clients(clients, tag=tag, zones=zones)
        rows = self.system.query("SELECT phone, timezone FROM clients WHERE tag = %s", tag)
        text = fields.pop("text", f"{self.result.fault} {time.time()}")
        mailing = ObservedMailing(0, tag, len(rows), dict(rows), {text})
        self.by_text[text] = mailing
        mailing.id = self.system.create_mailing(
            text=text, filter={"operator_codes": [], "tags": [tag]}, **fields
        )
        self.mailings[mailing.id] = mailing
        self.result.audience += mailing.clients
        return mailing.id

    def expect_text(self, mailing_id: int, text: str) -> None:
        """Permit another text for the mailing, before the scenario changes it."""
        self.mailings[mailing_id].texts.add(text)
        self.by_text[text] = self.mailings[mailing_id]

    def mark_worker_failure(self) -> None:
        """Record that a worker was killed or stopped at this instant."""
        self.failures.append(time.time())

    def mark_worker_kill(self) -> None:
        """Remember that a worker was killed; its journal limits the repeats to those in flight."""
        self.mark_worker_failure()
        self.kills.add(self.failures[-1])

    def mark_disconnect(self) -> None:
        """Record that the provider dropped all connections and answers at this instant."""
        self.disconnects.append(time.time())

    # --- requests at the provider --------------------------------------------------------------

    def count_requests(self) -> int:
        return int(self.system.provider.stats()["received"])

    def wait_for_requests(self, count: int, seconds: float = 20.0) -> None:
        wait_for(lambda: self.count_requests() >= count, seconds, f"{count} requests", every=0.02)

    def find_requests(self, after: float = 0.0, mailing_id: int | None = None) -> list[RequestRow]:
        """Return the requests that arrived after this instant, of one mailing or of all."""
        self._read_requests()
        return [
            row
            for row in self.rows
            if row["at"] > after
            and (mailing_id is None or row["text"] in self.mailings[mailing_id].texts)
        ]

    def wait_for_recovery(self, since: float, within: float) -> float:
        """Wait until a message is accepted after `since`; return and record the seconds between."""

        def recovery_seconds() -> float:
            found = [row["at"] for row in self.find_requests(since) if row["answer"] == "accepted"]
            return found[0] - since if found else 0.0

        self.result.recovery_s = wait_for(recovery_seconds, within, "a message accepted again")
        return self.result.recovery_s

    # --- observation ---------------------------------------------------------------------------

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
        self._ended.set()
        self._thread.join()
        if error is None:
            self._check_result()
        elif self.violations:
            error.add_note(f"the observer also found: {self.violations[:5]}")
        self._provider.close()

    def _observe(self) -> None:
        while not self._ended.wait(CHECK_INTERVAL_SECONDS):
            try:
                self._check_now()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                continue  # the scenario may have stopped PostgreSQL
            except Exception as error:
                self._report_violation(f"the observer failed: {error!r}")
                return

    def _check_now(self) -> None:
        with self.system.database() as cursor:
            wrong = find_wrong_totals(cursor, after=min(self.mailings, default=1) - 1)
        if wrong:
            self._report_violation(f"wrong totals: {wrong[:5]}")
        # Read before the provider's list: what is `sent` by now was accepted before.
        statuses = self._read_statuses()
        self._read_requests()
        for id_, (mailing_id, status, _) in statuses.items():
            if status == "sent" and id_ not in self._accepted:
                message = f"message {id_} of mailing {mailing_id}"
                self._report_violation(f"{message} is sent, but was not accepted")

    def _read_statuses(self) -> Statuses:
        rows = self.system.query(READ_MESSAGES, list(self.mailings))
        return {id_: (mailing_id, status, doubt) for id_, mailing_id, status, doubt in rows}

    def _read_requests(self) -> None:
        """Read the requests that the provider has received since the last call."""
        with self._read_lock:
            for row in self._provider.requests(after=self._last_request):
                self._last_request = row["n"]
                self.rows.append(row)
                if row["accepted"]:
                    self._accepted.add(row["id"])
                if row["text"] is not None:  # None: the provider did not read the body
                    self._check_content(row)

    def _check_content(self, row: RequestRow) -> None:
        mailing = self.by_text.get(row["text"])
        if mailing is None or row["phone"] not in mailing.phones:
            self._report_violation(f"not in the audience: {row}")
        content = self._first_content.setdefault(row["id"], (row["phone"], row["text"]))
        if content != (row["phone"], row["text"]):
            self._report_violation(f"another content under the same id: {row}, first {content}")

    def _report_violation(self, violation: str) -> None:
        if violation not in self.violations:
            self.violations.append(violation)

    def _check_result(self) -> None:
        self._check_now()
        for id_, end_at, start, end in self.system.query(READ_MAILINGS, list(self.mailings)):
            self.mailings[id_].end_at = end_at
            self.mailings[id_].window = Window(start, end) if start is not None else None
        mailings, report = list(self.mailings.values()), self._report_violation
        check_times(self.rows, self.by_text, self.result, report)
        check_outcomes(self._read_statuses(), self._accepted, mailings, self.result, report)
        check_recipients(self.rows, self.by_text, report)
        repeats = Repeats(
            self.rows,
            self.failures,
            self.kills,
            self.disconnects,
            {id_ for (id_,) in self.system.query(FIND_TIMED_OUT, list(self.mailings))},
            latency=self.system.provider.stats()["settings"]["latency"]["max"],
            unrecorded=self.unrecorded,
        )
        repeats.check(self.concurrency, self.result, report)
        assert not self.violations, "\n".join(self.violations[:20])
