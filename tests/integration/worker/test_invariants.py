"""The books under whatever may happen in whatever order: a state machine against PostgreSQL.

The machine keeps a small model of its own (who is in which audience, what was accepted) and after
every step compares it, and every way of counting, with the database.
"""

import os
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shared.db import status_changes
from shared.domain.statuses import Reason
from tests.support.fleet import FakeWorker, Fleet, rejected, throttled, unavailable, unknown
from worker.launch import launcher
from worker.recording.batch_report import BatchRelease, BatchReport

LONG = bool(os.environ.get("CHAOS_LONG"))
ZONES = ("Europe/Moscow", "Asia/Omsk", "Asia/Kamchatka")
SAYINGS = {
    "rejected": rejected,
    "unavailable": unavailable,
    "unknown": unknown,
    "throttled": throttled,
}
RELEASES = (
    None,
    None,
    BatchRelease(),
    BatchRelease(0.0, True),
    BatchRelease(0.0, wait_for_window=True),
)

FATES = ("accepted", "accepted", "silence", *SAYINGS)
# What a run must have met, or it has shown nothing.
MET: Counter[str] = Counter()

# A step's choices, drawn as one number: most of them matter only together.
seeds = st.integers(0, 2**32)


class Books(RuleBasedStateMachine):
    """Clients, mailings and pretend workers, all at the mercy of the next step."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def chance(self, seed: int) -> Random:
        """Another one at every step: Hypothesis likes to draw the same numbers again."""
        self.steps += 1
        return Random(f"{seed} at {self.steps}")

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        chance = self.chance(seed)
        self.fleet = Fleet(self.url, max_attempts=3)
        self.fleet.query("UPDATE clients SET tag = 'of an earlier example' WHERE tag = 'machine'")
        self.ids = self.fleet.add_clients(chance.randint(6, 14), ZONES, "machine")
        self.living = set(self.ids)
        self.mailings: list[int] = []
        self.workers: list[FakeWorker] = []
        self.said: list[BatchReport] = []
        self.accepted: set[tuple[int, int]] = set()
        self.sent: set[tuple[int, int]] = set()
        self.audiences: dict[int, set[int]] = {}
        self.launch(chance)

    def teardown(self) -> None:
        """All comes to an end and is settled; then the workers who were thought dead report."""
        if not hasattr(self, "fleet"):
            return
        try:
            for mailing_id in self.mailings:
                self.resume(Random())
                self.fleet.end_mailing(mailing_id)
                self.go_on(mailing_id, 100)
                self.fleet.expire_lease(mailing_id)
                self.fleet.apply_mailing_state(mailing_id)
                self.fleet.settle_mailing(mailing_id)
                assert self.fleet.read_mailing(mailing_id)["settled"]
            self.books_add_up()
            for n, worker in enumerate(w for w in self.workers if w.ids):
                others = map(rejected if n % 2 else unknown, worker.ids[1:])
                self.record([worker.make_report(worker.ids[:1], others, BatchRelease())])
                self.books_add_up()
            self.the_model_agrees()
        finally:
            self.fleet.close()

    @rule(seed=seeds)
    def step(self, seed: int) -> None:
        """One rule for all, as Hypothesis leaves some rules out of each example."""
        chance = self.chance(seed)
        acts = (self.work, self.operate, self.sweep, self.settle)
        chance.choices(acts, (5, 3, 1, 1))[0](chance)

    # --- the operator ----------------------------------------------------------------------------

    def operate(self, chance: Random) -> None:
        acts = {
            self.move_client: 8,
            self.delete_client: 3,
            self.add_clients: 2,
            self.launch: 6,
            self.launch_on: 6,
            self.pause: 1,
            self.resume: 3,
            self.retry_failed: 8,
            self.cancel: 1,
            self.come_to_its_end: 1,
        }
        chance.choices([*acts], [*acts.values()])[0](chance)

    def add_clients(self, chance: Random) -> None:
        added = self.fleet.add_clients(chance.randint(1, 4), [chance.choice(ZONES)], "machine")
        self.ids += added
        self.living |= set(added)

    def delete_client(self, chance: Random) -> None:
        if not self.living:
            return
        client_id = chance.choice(sorted(self.living))
        self.living.remove(client_id)
        with self.fleet.db.transaction() as cursor:
            cursor.execute(
                "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL,"
                " timezone = NULL, deleted_at = now() WHERE id = %s",
                (client_id,),
            )
            status_changes.cancel_client_messages(cursor, [client_id], Reason.CLIENT_DELETED)

    def move_client(self, chance: Random) -> None:
        if not self.living:
            return
        zone = chance.choice(ZONES)
        client_id = chance.choice(sorted(self.living))
        with self.fleet.db.transaction() as cursor:
            cursor.execute("UPDATE clients SET timezone = %s WHERE id = %s", (zone, client_id))
            status_changes.move_client_messages(cursor, {client_id: zone})

    def launch(self, chance: Random) -> None:
        """A new mailing, whose launch may stop before its audience is complete."""
        if len(self.mailings) == 10:
            return
        mailing_id = self.fleet.add_mailing(tags=["machine"], launched_client_id=self.ids[0] - 1)
        self.mailings.append(mailing_id)
        self.go_on(mailing_id, chance.randint(1, 3))

    def launch_on(self, chance: Random) -> None:
        self.go_on(chance.choice(self.mailings), 3)

    def go_on(self, mailing_id: int, turns: int) -> None:
        """Each turn is one chunk of a few clients; who lives by then is in the audience."""
        for _ in range(turns):
            more = launcher.launch_slice(
                self.fleet.guard, self.fleet.connections, mailing_id, 4, lambda: None
            )
            mailing = self.fleet.read_mailing(mailing_id)
            done = self.audiences.setdefault(mailing_id, set())
            last = max((id_ for id_ in done), default=self.ids[0] - 1)
            done |= {i for i in self.living if last < i <= mailing["launched_client_id"]}
            if not more:
                return

    def pause(self, chance: Random) -> None:
        self.fleet.query(
            "UPDATE mailings SET status = 'paused' WHERE id = %s AND status = 'running'",
            chance.choice(self.mailings),
        )

    def resume(self, chance: Random) -> None:
        self.fleet.query(
            "UPDATE mailings SET status = 'running' WHERE id = ANY (%s) AND status = 'paused'",
            self.mailings,
        )

    def cancel(self, chance: Random) -> None:
        self.fleet.cancel_mailing(chance.choice(self.mailings), deleted=chance.random() < 0.5)

    def come_to_its_end(self, chance: Random) -> None:
        """Half of the time the sweep is there at once."""
        mailing_id = chance.choice(self.mailings)
        self.fleet.end_mailing(mailing_id)
        if chance.random() < 0.5:
            self.fleet.apply_mailing_state(mailing_id)

    def retry_failed(self, chance: Random) -> None:
        mailing_id = chance.choice(self.mailings)
        self.fleet.retry_failed(mailing_id)
        MET["retried"] += self.fleet.apply_mailing_state(mailing_id) > 0

    # --- the fleet -------------------------------------------------------------------------------

    def work(self, chance: Random) -> None:
        for _ in range(3):
            if not self.workers or chance.random() < 0.3:
                self.claim(chance)
            elif not self.said:
                self.report(chance)
            else:
                steps = (self.take_over, self.report_together, self.repeat, self.lose_lease)
                chance.choices((self.report, *steps), (6, 2, 1, 1, 1))[0](chance)

    def claim(self, chance: Random) -> None:
        for mailing_id in chance.sample(self.mailings, len(self.mailings)):
            self.claim_of(mailing_id)

    def take_over(self, chance: Random) -> None:
        worker = chance.choice(self.workers)
        self.fleet.expire_lease(worker.mailing_id, worker.batch_id)
        self.claim_of(worker.mailing_id)

    def claim_of(self, mailing_id: int) -> None:
        before = self.leased(mailing_id)
        worker = self.fleet.try_claim_batch(mailing_id)
        if worker is not None:
            self.workers.append(worker)
            assert self.leased(mailing_id) == before | {worker.batch_id}
            MET["taken over"] += worker.claim.token > 1 and bool(worker.claim.rows)

    def leased(self, mailing_id: int) -> set[int]:
        rows = self.fleet.query(
            "SELECT id FROM batches WHERE mailing_id = %s AND leased_until > now()", mailing_id
        )
        return {id_ for (id_,) in rows}

    def report(self, chance: Random) -> None:
        """Any worker says something of the messages it was given, be it a stale one or not."""
        worker = chance.choice([w for w in self.workers if w.ids] or self.workers)
        told = [(id_, chance.choice(FATES)) for id_ in worker.ids]
        release = chance.choice(RELEASES)
        flush = worker.make_report(
            [id_ for id_, fate in told if fate == "accepted"],
            [SAYINGS[fate](id_) for id_, fate in told if fate in SAYINGS],
            release,
        )
        # What a worker was told of a message, it says once; silence is for a later flush.
        worker.ids = [id_ for id_, fate in told if fate == "silence"]
        self.record([flush])

    def report_together(self, chance: Random) -> None:
        """One transaction, several batches; everything that is left was accepted."""
        chosen = {(w.mailing_id, w.batch_id): w for w in chance.choices(self.workers, k=2)}
        self.record(
            [worker.make_report(worker.ids, (), BatchRelease()) for worker in chosen.values()]
        )
        for worker in chosen.values():
            worker.ids = []

    def repeat(self, chance: Random) -> None:
        """An old flush once more: its answer was lost."""
        before = self.snapshot()
        MET["repeated"] += 1
        self.fleet.record_reports(chance.choice(self.said))
        assert self.snapshot() == before, "a flush that was repeated changed something"

    def snapshot(self) -> list[tuple[object, ...]]:
        return self.fleet.query(
            "SELECT id, status, attempts, in_doubt, reason, sent_at FROM messages"
            " WHERE mailing_id = ANY (%s) ORDER BY id",
            self.mailings,
        )

    def record(self, flushes: list[BatchReport]) -> None:
        for flush in flushes:
            self.observe(flush)
        self.fleet.record_reports(*flushes)
        self.said += flushes
        for flush in flushes:
            self.accepted |= {(flush.mailing_id, id_) for id_, _ in flush.accepted}

    def observe(self, flush: BatchReport) -> None:
        batch = self.fleet.read_batch(flush.mailing_id, flush.batch_id)
        settled = self.fleet.read_mailing(flush.mailing_id)["settled"]
        MET["stale"] += batch["token"] != flush.token
        for id_, _ in flush.accepted:
            message = self.fleet.read_message(flush.mailing_id, id_)
            MET[f"accepted when {message['status']}"] += 1
            MET["accepted when in doubt"] += message["in_doubt"]
            MET["accepted when settled"] += settled
            MET["accepted when moved"] += message["batch_id"] != flush.batch_id
        for report in flush.message_reports:
            message = self.fleet.read_message(flush.mailing_id, report.message_id)
            MET["moved"] += message["batch_id"] != flush.batch_id
            MET["cancelled while out"] += message["status"] == "cancelled"
            MET["doubted when settled"] += settled and report.in_doubt

    def lose_lease(self, chance: Random) -> None:
        worker = chance.choice(self.workers)
        self.fleet.expire_lease(worker.mailing_id, worker.batch_id)

    def sweep(self, chance: Random) -> None:
        self.fleet.apply_mailing_state(chance.choice(self.mailings))

    def settle(self, chance: Random) -> None:
        mailing_id = chance.choice(self.mailings)
        self.fleet.apply_mailing_state(mailing_id)
        if self.fleet.settle_mailing(mailing_id) == "finished":
            mailing = self.fleet.read_mailing(mailing_id)
            assert mailing["audience_complete"]
            assert "pending" not in self.fleet.count_statuses(mailing_id)

    # --- what must be true at every instant ------------------------------------------------------

    @invariant()
    def books_add_up(self) -> None:
        if hasattr(self, "fleet"):
            MET["steps"] += 1
            self.fleet.check_totals()

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


def test_the_books_add_up_whatever_happens(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Books, "url", database_url)
    monkeypatch.setattr(launcher, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 8)
    monkeypatch.setattr(launcher, "NEXT_SLICE_CHUNK_IDS", 8)
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=300 if LONG else 8,
            # Shrinking takes minutes: the long run does it.
            phases=[*Phase] if LONG else [Phase.explicit, Phase.generate],
            stateful_step_count=100 if LONG else 60,
            deadline=None,
            print_blob=True,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what in (
        *("stale", "repeated", "retried", "taken over", "moved", "cancelled while out"),
        *("accepted when expired", "accepted when cancelled", "accepted when in doubt"),
        *("accepted when settled", "accepted when moved"),
    ):
        assert MET[what], f"no example met what is {what}: give the machine more of it"
