"""The totals stay right under random events: a state machine against PostgreSQL.

The machine keeps a small model (the audiences, and what was accepted) and after every step compares
it, and every way of counting, with the database.
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
REPORTS = {
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

OUTCOMES = ("accepted", "accepted", "unanswered", *REPORTS)
# How often each situation occurred: a run without them would prove nothing.
OCCURRED: Counter[str] = Counter()

# A step's choices, drawn as one number: most of them matter only together.
seeds = st.integers(0, 2**32)


class Totals(RuleBasedStateMachine):
    """Clients, mailings and fake workers, changed by random steps."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def step_random(self, seed: int) -> Random:
        """Return a generator that differs at every step, since Hypothesis repeats numbers."""
        self.steps += 1
        return Random(f"{seed} at {self.steps}")

    @initialize(seed=seeds)
    def set_up(self, seed: int) -> None:
        rng = self.step_random(seed)
        self.fleet = Fleet(self.url, max_attempts=3)
        self.fleet.query("UPDATE clients SET tag = 'of an earlier example' WHERE tag = 'machine'")
        self.ids = self.fleet.add_clients(rng.randint(6, 14), ZONES, "machine")
        self.active_clients = set(self.ids)
        self.mailings: list[int] = []
        self.workers: list[FakeWorker] = []
        self.recorded_reports: list[BatchReport] = []
        self.accepted: set[tuple[int, int]] = set()
        self.sent: set[tuple[int, int]] = set()
        self.audiences: dict[int, set[int]] = {}
        self.launch(rng)

    def teardown(self) -> None:
        """End and settle all mailings; then the workers whose leases expired report."""
        if not hasattr(self, "fleet"):
            return
        try:
            for mailing_id in self.mailings:
                self.resume(Random())
                self.fleet.end_mailing(mailing_id)
                self.launch_slices(mailing_id, 100)
                self.fleet.expire_lease(mailing_id)
                self.fleet.apply_mailing_state(mailing_id)
                self.fleet.settle_mailing(mailing_id)
                assert self.fleet.read_mailing(mailing_id)["settled"]
            self.totals_are_right()
            for n, worker in enumerate(w for w in self.workers if w.ids):
                others = map(rejected if n % 2 else unknown, worker.ids[1:])
                self.record([worker.make_report(worker.ids[:1], others, BatchRelease())])
                self.totals_are_right()
            self.model_agrees()
        finally:
            self.fleet.close()

    @rule(seed=seeds)
    def step(self, seed: int) -> None:
        """One rule for all actions, since Hypothesis omits some rules from each example."""
        rng = self.step_random(seed)
        acts = (self.work, self.operate, self.sweep, self.settle)
        rng.choices(acts, (5, 3, 1, 1))[0](rng)

    # --- actions of an operator ------------------------------------------------------------------

    def operate(self, rng: Random) -> None:
        acts = {
            self.move_client: 8,
            self.delete_client: 3,
            self.add_clients: 2,
            self.launch: 6,
            self.continue_launch: 6,
            self.pause: 1,
            self.resume: 3,
            self.retry_failed: 8,
            self.cancel: 1,
            self.end_mailing: 1,
        }
        rng.choices([*acts], [*acts.values()])[0](rng)

    def add_clients(self, rng: Random) -> None:
        added = self.fleet.add_clients(rng.randint(1, 4), [rng.choice(ZONES)], "machine")
        self.ids += added
        self.active_clients |= set(added)

    def delete_client(self, rng: Random) -> None:
        if not self.active_clients:
            return
        client_id = rng.choice(sorted(self.active_clients))
        self.active_clients.remove(client_id)
        with self.fleet.db.transaction() as cursor:
            cursor.execute(
                "UPDATE clients SET phone = NULL, operator_code = NULL, tag = NULL,"
                " timezone = NULL, deleted_at = now() WHERE id = %s",
                (client_id,),
            )
            status_changes.cancel_client_messages(cursor, [client_id], Reason.CLIENT_DELETED)

    def move_client(self, rng: Random) -> None:
        if not self.active_clients:
            return
        zone = rng.choice(ZONES)
        client_id = rng.choice(sorted(self.active_clients))
        with self.fleet.db.transaction() as cursor:
            cursor.execute("UPDATE clients SET timezone = %s WHERE id = %s", (zone, client_id))
            status_changes.move_client_messages(cursor, {client_id: zone})

    def launch(self, rng: Random) -> None:
        """Add a mailing, whose launch may stop before its audience is complete."""
        if len(self.mailings) == 10:
            return
        mailing_id = self.fleet.add_mailing(tags=["machine"], launched_client_id=self.ids[0] - 1)
        self.mailings.append(mailing_id)
        if rng.random() < 0.3:
            self.fleet.launch_small_mailings(batch_size=4)
            OCCURRED["launched with others"] += self.fleet.read_mailing(mailing_id)["audience"] > 0
        self.launch_slices(mailing_id, rng.randint(1, 3))

    def continue_launch(self, rng: Random) -> None:
        self.launch_slices(rng.choice(self.mailings), 3)

    def launch_slices(self, mailing_id: int, slices: int) -> None:
        """Each slice is one chunk of a few clients: of those that are not deleted by then."""
        for _ in range(slices):
            more = launcher.launch_slice(
                self.fleet.guard, self.fleet.connections, mailing_id, 4, lambda: None
            )
            mailing = self.fleet.read_mailing(mailing_id)
            done = self.audiences.setdefault(mailing_id, set())
            last = max((id_ for id_ in done), default=self.ids[0] - 1)
            done |= {i for i in self.active_clients if last < i <= mailing["launched_client_id"]}
            if not more:
                return

    def pause(self, rng: Random) -> None:
        self.fleet.query(
            "UPDATE mailings SET status = 'paused' WHERE id = %s AND status = 'running'",
            rng.choice(self.mailings),
        )

    def resume(self, rng: Random) -> None:
        self.fleet.query(
            "UPDATE mailings SET status = 'running' WHERE id = ANY (%s) AND status = 'paused'",
            self.mailings,
        )

    def cancel(self, rng: Random) -> None:
        self.fleet.cancel_mailing(rng.choice(self.mailings), deleted=rng.random() < 0.5)

    def end_mailing(self, rng: Random) -> None:
        """End a mailing; half of the time the sweep runs at once."""
        mailing_id = rng.choice(self.mailings)
        self.fleet.end_mailing(mailing_id)
        if rng.random() < 0.5:
            self.fleet.apply_mailing_state(mailing_id)

    def retry_failed(self, rng: Random) -> None:
        mailing_id = rng.choice(self.mailings)
        self.fleet.retry_failed(mailing_id)
        OCCURRED["retried"] += self.fleet.apply_mailing_state(mailing_id) > 0

    # --- actions of workers ----------------------------------------------------------------------

    def work(self, rng: Random) -> None:
        for _ in range(3):
            if not self.workers or rng.random() < 0.3:
                self.claim(rng)
            elif not self.recorded_reports:
                self.report(rng)
            else:
                steps = (self.take_over, self.report_together, self.repeat, self.lose_lease)
                rng.choices((self.report, *steps), (6, 2, 1, 1, 1))[0](rng)

    def claim(self, rng: Random) -> None:
        for mailing_id in rng.sample(self.mailings, len(self.mailings)):
            self.claim_of(mailing_id)

    def take_over(self, rng: Random) -> None:
        worker = rng.choice(self.workers)
        self.fleet.expire_lease(worker.mailing_id, worker.batch_id)
        self.claim_of(worker.mailing_id)

    def claim_of(self, mailing_id: int) -> None:
        before = self.leased(mailing_id)
        worker = self.fleet.try_claim_batch(mailing_id)
        if worker is not None:
            self.workers.append(worker)
            assert self.leased(mailing_id) == before | {worker.batch_id}
            OCCURRED["taken over"] += worker.claim.token > 1 and bool(worker.claim.rows)

    def leased(self, mailing_id: int) -> set[int]:
        rows = self.fleet.query(
            "SELECT id FROM batches WHERE mailing_id = %s AND leased_until > now()", mailing_id
        )
        return {id_ for (id_,) in rows}

    def report(self, rng: Random) -> None:
        """Any worker, stale or not, reports outcomes of some of its messages."""
        worker = rng.choice([w for w in self.workers if w.ids] or self.workers)
        outcomes = [(id_, rng.choice(OUTCOMES)) for id_ in worker.ids]
        release = rng.choice(RELEASES)
        report = worker.make_report(
            [id_ for id_, outcome in outcomes if outcome == "accepted"],
            [REPORTS[outcome](id_) for id_, outcome in outcomes if outcome in REPORTS],
            release,
            last=rng.random() < 0.5,
        )
        # A worker reports each outcome once; messages without one stay for a later report.
        worker.ids = [id_ for id_, outcome in outcomes if outcome == "unanswered"]
        self.record([report])

    def report_together(self, rng: Random) -> None:
        """One transaction for several batches, whose remaining messages were all accepted."""
        chosen = {(w.mailing_id, w.batch_id): w for w in rng.choices(self.workers, k=2)}
        self.record(
            [
                worker.make_report(worker.ids, (), BatchRelease(), last=rng.random() < 0.5)
                for worker in chosen.values()
            ]
        )
        for worker in chosen.values():
            worker.ids = []

    def repeat(self, rng: Random) -> None:
        """Record an old report again, as if its answer had been lost."""
        before = self.snapshot()
        OCCURRED["repeated"] += 1
        self.fleet.record_reports(rng.choice(self.recorded_reports))
        assert self.snapshot() == before, "a repeated report changed something"

    def snapshot(self) -> list[tuple[object, ...]]:
        return self.fleet.query(
            "SELECT id, status, attempts, in_doubt, reason, sent_at FROM messages"
            " WHERE mailing_id = ANY (%s) ORDER BY id",
            self.mailings,
        )

    def record(self, reports: list[BatchReport]) -> None:
        for report in reports:
            self.count_situations(report)
        recorded = self.fleet.record_reports(*reports)
        settled = any(each.settled for each in recorded.values())
        OCCURRED["settled with its last outcomes"] += settled
        self.recorded_reports += reports
        for report in reports:
            self.accepted |= {(report.mailing_id, id_) for id_, _ in report.accepted}

    def count_situations(self, report: BatchReport) -> None:
        batch = self.fleet.read_batch(report.mailing_id, report.batch_id)
        settled = self.fleet.read_mailing(report.mailing_id)["settled"]
        OCCURRED["stale"] += batch["token"] != report.token
        for id_, _ in report.accepted:
            message = self.fleet.read_message(report.mailing_id, id_)
            OCCURRED[f"accepted when {message['status']}"] += 1
            OCCURRED["accepted when in doubt"] += message["in_doubt"]
            OCCURRED["accepted when settled"] += settled
            OCCURRED["accepted when moved"] += message["batch_id"] != report.batch_id
        for message_report in report.message_reports:
            message = self.fleet.read_message(report.mailing_id, message_report.message_id)
            OCCURRED["moved"] += message["batch_id"] != report.batch_id
            OCCURRED["cancelled during its request"] += message["status"] == "cancelled"
            OCCURRED["doubted when settled"] += settled and message_report.in_doubt

    def lose_lease(self, rng: Random) -> None:
        """A batch loses its lease, or all of a mailing do, with those of moved messages."""
        worker = rng.choice(self.workers)
        self.fleet.expire_lease(worker.mailing_id, rng.choice([worker.batch_id, None]))

    def sweep(self, rng: Random) -> None:
        self.fleet.apply_mailing_state(rng.choice(self.mailings))

    def settle(self, rng: Random) -> None:
        mailing_id = rng.choice(self.mailings)
        self.fleet.apply_mailing_state(mailing_id)
        if self.fleet.settle_mailing(mailing_id) == "finished":
            mailing = self.fleet.read_mailing(mailing_id)
            assert mailing["audience_complete"]
            assert "pending" not in self.fleet.count_statuses(mailing_id)

    # --- invariants ------------------------------------------------------------------------------

    @invariant()
    def totals_are_right(self) -> None:
        if hasattr(self, "fleet"):
            OCCURRED["steps"] += 1
            self.fleet.check_totals()

    @invariant()
    def model_agrees(self) -> None:
        if not hasattr(self, "fleet"):
            return
        rows = self.fleet.query(
            "SELECT mailing_id, id, client_id, status FROM messages WHERE mailing_id = ANY (%s)",
            self.mailings,
        )
        sent = {(mailing_id, id_) for mailing_id, id_, _, status in rows if status == "sent"}
        assert sent == self.accepted, "sent messages must be those accepted"
        assert sent >= self.sent, "a sent message must stay sent"
        self.sent = sent
        for mailing_id in self.mailings:
            clients = {row[2] for row in rows if row[0] == mailing_id}
            assert clients == self.audiences.get(mailing_id, set())


def test_the_totals_are_right_whatever_happens(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Totals, "url", database_url)
    monkeypatch.setattr(launcher, "SLICE_SECONDS", -1.0)
    monkeypatch.setattr(launcher, "FIRST_CHUNK_IDS", 8)
    monkeypatch.setattr(launcher, "NEXT_SLICE_CHUNK_IDS", 8)
    run_state_machine_as_test(
        Totals,
        settings=settings(
            max_examples=300 if LONG else 40,
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
        *("stale", "repeated", "retried", "taken over", "moved", "cancelled during its request"),
        *("accepted when expired", "accepted when cancelled", "accepted when in doubt"),
        *("accepted when settled", "accepted when moved"),
        *("launched with others", "settled with its last outcomes"),
    ):
        assert OCCURRED[what], (
            f"no example had a message {what}: give the machine more of these steps"
        )
