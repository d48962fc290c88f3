"""The books under whatever may happen in whatever order: a state machine against PostgreSQL.

The machine keeps a small model of its own (who is in which audience, what was accepted) and after
every step compares it, and every way of counting, with the database.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared import ledger
from tests.fleet import Fleet, Worker, rejected, throttled, unavailable, unknown
from worker import launch
from worker.record import Flush, Release

LONG = bool(os.environ.get("CHAOS_LONG"))
ZONES = ("Europe/Moscow", "Asia/Omsk", "Asia/Kamchatka")
SAYINGS = {
    "rejected": rejected,
    "unavailable": unavailable,
    "unknown": unknown,
    "throttled": throttled,
}
RELEASES = (None, None, Release(), Release(0.0, True), Release(0.0, park=True))

any_index = st.integers(0, 1_000)
fates = st.lists(st.sampled_from(["accepted", "accepted", "silence", *SAYINGS]), max_size=6)


@pytest.fixture(scope="module")
def machine_url(database_url: str) -> Iterator[str]:
    Books.url = database_url
    yield database_url


class Books(RuleBasedStateMachine):
    """Clients, mailings and pretend workers, all at the mercy of the next step."""

    url = ""

    @initialize(count=st.integers(4, 12))
    def begin(self, count: int) -> None:
        self.fleet = Fleet(self.url, max_attempts=3)
        self.fleet.query("UPDATE clients SET tag = 'of an earlier example' WHERE tag = 'machine'")
        self.ids = self.fleet.add_clients(count, ZONES, "machine")
        self.living = set(self.ids)
        self.mailings: list[int] = []
        self.workers: list[Worker] = []
        self.said: list[Flush] = []
        self.accepted: set[tuple[int, int]] = set()
        self.sent: set[tuple[int, int]] = set()
        self.audiences: dict[int, set[int]] = {}
        self.retries: dict[int, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.close()

    # --- the operator ----------------------------------------------------------------------------

    @rule(count=st.integers(1, 4), zone=st.sampled_from(ZONES))
    def add_clients(self, count: int, zone: str) -> None:
        added = self.fleet.add_clients(count, [zone], "machine")
        self.ids += added
        self.living |= set(added)

    @precondition(lambda self: self.living)
    @rule(index=any_index)
    def delete_client(self, index: int) -> None:
        client_id = pick(sorted(self.living), index)
        self.living.remove(client_id)
        with self.fleet.db.transaction() as cursor:
            cursor.execute(
                "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL,"
                " timezone = NULL, deleted_at = now() WHERE id = %s",
                (client_id,),
            )
            ledger.cancel_client_messages(cursor, client_id)

    @precondition(lambda self: self.living)
    @rule(index=any_index, zone=st.sampled_from(ZONES))
    def move_client(self, index: int, zone: str) -> None:
        client_id = pick(sorted(self.living), index)
        with self.fleet.db.transaction() as cursor:
            cursor.execute("UPDATE clients SET timezone = %s WHERE id = %s", (zone, client_id))
            ledger.move_client_messages(cursor, client_id, zone)

    @precondition(lambda self: len(self.mailings) < 4)
    @rule(turns=st.integers(1, 3))
    def launch(self, turns: int) -> None:
        """A new mailing, whose launch may stop before its audience is complete."""
        mailing_id = self.fleet.add_mailing(tags=["machine"], launched_client_id=self.ids[0] - 1)
        self.mailings.append(mailing_id)
        self.go_on(mailing_id, turns)

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def launch_on(self, index: int) -> None:
        self.go_on(pick(self.mailings, index), 3)

    def go_on(self, mailing_id: int, turns: int) -> None:
        """Each turn is one chunk of a few clients; who lives by then is in the audience."""
        for _ in range(turns):
            more = launch.launch(self.fleet.db, mailing_id, 3, lambda: None)
            mailing = self.fleet.mailing(mailing_id)
            done = self.audiences.setdefault(mailing_id, set())
            last = max((id_ for id_ in done), default=self.ids[0] - 1)
            done |= {i for i in self.living if last < i <= mailing["launched_client_id"]}
            if not more:
                return

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def pause_or_resume(self, index: int) -> None:
        self.fleet.query(
            "UPDATE mailings SET status = CASE status WHEN 'paused' THEN 'running' ELSE 'paused'"
            " END::mailing_status WHERE id = %s AND status IN ('running', 'paused')",
            pick(self.mailings, index),
        )

    @precondition(lambda self: self.mailings)
    @rule(index=any_index, deleted=st.booleans())
    def cancel(self, index: int, deleted: bool) -> None:
        self.fleet.cancel(pick(self.mailings, index), deleted)

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def come_to_its_end(self, index: int) -> None:
        self.fleet.end(pick(self.mailings, index))

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def retry_failed(self, index: int) -> None:
        self.fleet.retry_failed(pick(self.mailings, index))

    # --- the fleet -------------------------------------------------------------------------------

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def claim(self, index: int) -> None:
        mailing_id = pick(self.mailings, index)
        before = self.leased(mailing_id)
        worker = self.fleet.try_claim(mailing_id)
        if worker is not None:
            self.workers.append(worker)
            assert self.leased(mailing_id) == before | {worker.batch_id}

    def leased(self, mailing_id: int) -> set[int]:
        rows = self.fleet.query(
            "SELECT id FROM batches WHERE mailing_id = %s AND leased_until > now()", mailing_id
        )
        return {id_ for (id_,) in rows}

    @precondition(lambda self: self.workers)
    @rule(index=any_index, fates=fates, release=st.sampled_from(RELEASES))
    def report(self, index: int, fates: list[str], release: Release | None) -> None:
        """A worker says something of the messages it was given, be it a stale one or not."""
        worker = pick(self.workers, index)
        told = list(zip(worker.ids, fates, strict=False))
        flush = worker.flush(
            [id_ for id_, fate in told if fate == "accepted"],
            [SAYINGS[fate](id_) for id_, fate in told if fate in SAYINGS],
            release,
        )
        # What one worker was told about a message, it says once; silence is for a later flush.
        worker.ids = [id_ for id_, fate in told if fate == "silence"] + worker.ids[len(told) :]
        self.record([flush])

    @precondition(lambda self: len(self.workers) > 1)
    @rule(first=any_index, second=any_index)
    def report_together(self, first: int, second: int) -> None:
        """One transaction, two batches; everything that is left was accepted."""
        chosen = {(w.mailing_id, w.batch_id): w for w in (
            pick(self.workers, first), pick(self.workers, second)
        )}
        self.record([worker.flush(worker.ids, (), Release()) for worker in chosen.values()])
        for worker in chosen.values():
            worker.ids = []

    @precondition(lambda self: self.said)
    @rule(index=any_index)
    def repeat(self, index: int) -> None:
        """An old flush once more: its answer was lost."""
        before = self.snapshot()
        self.record([pick(self.said, index)])
        assert self.snapshot() == before, "a flush that was repeated changed something"

    def snapshot(self) -> list[tuple[object, ...]]:
        return self.fleet.query(
            "SELECT id, status, attempts, in_doubt, reason, sent_at FROM messages"
            " WHERE mailing_id = ANY (%s) ORDER BY id",
            self.mailings,
        )

    def record(self, flushes: list[Flush]) -> None:
        self.fleet.record(*flushes)
        self.said += flushes
        for flush in flushes:
            self.accepted |= {(flush.mailing_id, id_) for id_, _ in flush.accepted}

    @precondition(lambda self: self.workers)
    @rule(index=any_index)
    def lose_lease(self, index: int) -> None:
        worker = pick(self.workers, index)
        self.fleet.kill_lease(worker.mailing_id, worker.batch_id)

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def sweep(self, index: int) -> None:
        self.fleet.apply_state(pick(self.mailings, index))

    @precondition(lambda self: self.mailings)
    @rule(index=any_index)
    def settle(self, index: int) -> None:
        mailing_id = pick(self.mailings, index)
        self.fleet.apply_state(mailing_id)
        if self.fleet.settle(mailing_id) == "finished":
            mailing = self.fleet.mailing(mailing_id)
            assert mailing["audience_complete"]
            assert "pending" not in self.fleet.statuses(mailing_id)

    # --- what must be true at every instant ------------------------------------------------------

    @invariant()
    def books_add_up(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.check_books()

    @invariant()
    def the_model_agrees(self) -> None:
        if not hasattr(self, "fleet"):
            return
        rows = self.fleet.query(
            "SELECT mailing_id, id, client_id, status FROM messages WHERE mailing_id = ANY (%s)",
            self.mailings,
        )
        sent = {(mailing_id, id_) for mailing_id, id_, _, status in rows if status == "sent"}
        assert sent == self.accepted, "sent is what was accepted, and nothing else"
        assert sent >= self.sent, "what was sent is sent for ever"
        self.sent = sent
        for mailing_id in self.mailings:
            clients = {row[2] for row in rows if row[0] == mailing_id}
            assert clients == self.audiences.get(mailing_id, set())


def pick(items: list, index: int):  # type: ignore[no-untyped-def, type-arg]
    return items[index % len(items)]


def test_the_books_add_up_whatever_happens(
    machine_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "TURN_SECONDS", -1.0)
    monkeypatch.setattr(launch, "FIRST_SPAN", 5)
    monkeypatch.setattr(launch, "NEXT_TURN_SPAN", 5)
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=300 if LONG else 12,
            stateful_step_count=100 if LONG else 60,
            deadline=None,
            print_blob=True,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
