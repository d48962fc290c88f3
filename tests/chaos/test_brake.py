"""The provider refuses messages: the brake pauses the mailing, and only then."""

import time
from collections.abc import Sequence
from typing import Any

from shared.domain.stop_rule import AnswerCounts, StopRule
from tests.chaos.assertions import UNRECORDED_SECONDS, RequestRow
from tests.chaos.conftest import CONCURRENCY, Observe
from tests.chaos.observer import Observer
from tests.support.system import System
from tests.support.waiting import wait_for

# Slow enough that requests in flight cover what a busy machine adds to half a second.
RATE = 100
OVERSHOOT_SECONDS = 0.5
REFUSALS = ("reject_400", "reject_422", "declined")


def test_total_refusal_pauses_a_mailing_and_resuming_sends_the_rest(
    system: System, observe: Observe
) -> None:
    rule = StopRule(0.5, 40)
    system.provider.set(latency=0.02, faults={"reject_422": 1.0})
    with observe("provider refuses everything") as observer:
        mailing = create_mailing(observer, 400, rule)
        wait_paused(system, mailing)
        check_overshoot(observer, mailing, rule)
        refused = count_status(system, mailing, "failed")
        assert refused >= rule.min_answers
        system.check_totals()
        assert system.call("POST", f"/mailings/{mailing}/pause")["pause_reason"] == "refusals"
        system.provider.set(faults={})
        assert system.call("POST", f"/mailings/{mailing}/resume")["pause_reason"] is None
        done = system.wait_finished(mailing, 60)
        # The answers before it was resumed are in no count that could pause it again.
        assert done["counts"]["failed"] == refused
        assert done["counts"]["sent"] == done["audience"] - refused
        assert done["refusals"] == [
            {
                "http_status": 422,
                "reason": "http_422",
                "count": refused,
                "example": '{"code":422,"message":"rejected"}',
            }
        ]


def test_the_share_of_refusals_decides(system: System, observe: Observe) -> None:
    rule = StopRule(0.15, 60)
    system.provider.set(latency=0.02, faults={"declined": 0.3}, seed=7)
    with observe("provider refuses 30 %, then 1 %") as observer:
        braked = create_mailing(observer, 400, rule)
        wait_paused(system, braked)
        check_overshoot(observer, braked, rule)
        system.provider.set(faults={"reject_422": 0.01})
        spared = observer.create_mailing(600, stop_when=rule._asdict())
        done = system.wait_finished(spared, 60)
        assert done["counts"]["sent"] >= 0.95 * done["audience"]
        system.provider.set(faults={})
        system.call("POST", f"/mailings/{braked}/resume")
        done = system.wait_finished(braked, 60)
        assert done["counts"]["sent"] == done["audience"], "a declined message is tried again"


def test_refusals_after_many_acceptances_pause_by_the_last_minute(
    system: System, observe: Observe
) -> None:
    rule = StopRule(0.5, 40)
    system.provider.set(latency=0.02)
    with observe("provider turns to refusing everything") as observer:
        mailing = create_mailing(observer, 1_500, rule)
        wait_for(lambda: count_status(system, mailing, "sent") >= 400, 30, "400 acceptances")
        # As if they were older than the last minute.
        system.query(
            "UPDATE answer_counts SET period = 0 WHERE mailing_id = %s RETURNING 1", mailing
        )
        turned_at = time.time()
        system.provider.set(faults={"reject_400": 1.0})
        wait_paused(system, mailing)
        # Acceptances that were not recorded yet count as well: that many refusals more.
        unrecorded = RATE * UNRECORDED_SECONDS
        check_overshoot(observer, mailing, rule, since=turned_at, lost=unrecorded)
        counts = system.statistics(mailing)["counts"]
        total = AnswerCounts(counts["sent"], counts["failed"])
        assert not rule.is_broken_by(total), "it was paused by all answers since its start"
        cancel(system, mailing)


def test_a_killed_worker_raises_no_more_than_its_own_overshoot(
    system: System, observe: Observe
) -> None:
    rule = StopRule(0.5, 150)
    system.provider.set(latency=0.02, faults={"reject_422": 1.0})
    with observe("SIGKILL shortly before the brake") as observer:
        mailing = create_mailing(observer, 600, rule)
        observer.wait_for_requests(110)
        killed = system[system.dispatchers[0]]
        killed.kill()
        observer.mark_worker_kill()
        killed.start()
        wait_paused(system, mailing)
        # The answers that the killed worker had not recorded are not counted.
        check_overshoot(observer, mailing, rule, lost=CONCURRENCY + RATE * OVERSHOOT_SECONDS)
        system.check_totals()
        cancel(system, mailing)


def test_other_answers_and_few_refusals_do_not_pause(system: System, observe: Observe) -> None:
    rule = StopRule(0.05, 20)
    system.provider.set(latency=0.02, faults={"throttle_429": 0.2, "error_500": 0.2}, retry_after=1)
    with observe("throttling, unavailability, one refusal") as observer:
        mailing = create_mailing(observer, 150, rule)
        wait_for(
            lambda: {"throttle_429", "error_500"} <= system.provider.stats()["refused"].keys(),
            30,
            "both faults",
        )
        system.provider.set(faults={})
        done = system.wait_finished(mailing, 90)
        assert done["counts"]["sent"] == done["audience"]
        assert done["refusals"] == []
        system.provider.set(faults={"reject_422": 1.0})
        few = observer.create_mailing(10, stop_when=rule._asdict())
        assert system.wait_finished(few, 60)["counts"]["failed"] == 10


def create_mailing(observer: Observer, clients: int, rule: StopRule) -> int:
    return observer.create_mailing(clients, stop_when=rule._asdict(), rate_limit=RATE)


def wait_paused(system: System, mailing_id: int) -> None:
    """Wait until the brake has paused the mailing and no worker holds a batch of it."""

    def paused() -> bool:
        mailing: dict[str, Any] = system.call("GET", f"/mailings/{mailing_id}")
        assert mailing["status"] in ("scheduled", "running", "paused"), mailing["status"]
        return bool(mailing["pause_reason"] == "refusals")

    wait_for(paused, 60, f"mailing {mailing_id} paused", every=0.1)
    wait_for(lambda: is_quiet(system, mailing_id), 60, "the batches to be given back")


def cancel(system: System, mailing_id: int) -> None:
    """Cancel the mailing and wait until all its messages have ended."""
    system.call("POST", f"/mailings/{mailing_id}/cancel")
    wait_for(lambda: count_status(system, mailing_id, "pending") == 0, 60, "no pending message")


def is_quiet(system: System, mailing_id: int) -> bool:
    leased = "SELECT 1 FROM batches WHERE mailing_id = %s AND leased_until > now()"
    return not system.query(leased, mailing_id)


def count_status(system: System, mailing_id: int, status: str) -> int:
    return int(system.statistics(mailing_id)["counts"][status])


def check_overshoot(
    observer: Observer, mailing_id: int, rule: StopRule, since: float = 0.0, lost: float = 0.0
) -> None:
    """Assert that after the answer that broke the rule, and half a second, no more arrived than
    were in flight. `lost`: answers that no worker has counted."""
    rows = observer.find_requests(since, mailing_id)
    broken_at = find_breach(rows, rule)
    late = [row for row in rows if row["at"] > broken_at + OVERSHOOT_SECONDS]
    limit = CONCURRENCY * len(observer.system.dispatchers) + lost
    observer.result.details["after the rule was broken"] = sum(r["at"] > broken_at for r in rows)
    assert len(late) <= limit, f"{len(late)} requests more than half a second after the breach"


def find_breach(rows: Sequence[RequestRow], rule: StopRule) -> float:
    """Return when the provider's answers broke the rule."""
    counts = AnswerCounts()
    for row in rows:
        if row["accepted"] or row["answer"] in REFUSALS:
            counts = counts.plus(AnswerCounts(row["accepted"], not row["accepted"]))
            if rule.is_broken_by(counts):
                return float(row["at"])
    # By answers before these rows, which were counted with them: at the last of them at the latest.
    assert counts.refused > 0, f"the rule was not broken: {counts}"
    return float(rows[-1]["at"])
