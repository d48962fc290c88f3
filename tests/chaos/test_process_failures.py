"""Processes that are killed, stopped or restarted at the worst moment."""

import signal
import time
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.chaos.conftest import Watch
from tests.chaos.run_options import pick
from tests.support.system import Process, System
from tests.support.waiting import wait_for


def test_dispatch_workers_killed_at_random_moments(
    system: System, watch: Watch, rng: Random
) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with watch("SIGKILL of dispatch workers") as witness:
        mailing = witness.mailing(pick(5_000, 30_000))
        witness.wait_received(200)
        for _ in range(pick(3, 12)):
            name = rng.choice(system.dispatchers)
            said = system[name].log.stat().st_size
            wait_for(partial(sending, system[name], said), 20, "the worker to send")
            time.sleep(rng.uniform(0.0, pick(0.8, 2.0)))
            system[name].kill()
            witness.blow()
            system[name].start()
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


@pytest.mark.parametrize("name", ["control", "scheduler", "api"])
def test_others_killed_at_random_moments(
    system: System, watch: Watch, rng: Random, name: str
) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with watch(f"SIGKILL of {name}") as witness:
        running = witness.mailing(pick(3_000, 15_000))
        waiting = witness.mailing(100, starts_in=2.0)
        witness.wait_received(100)
        for _ in range(pick(2, 8)):
            time.sleep(rng.uniform(0.1, 0.8))
            system[name].kill()
            system[name].start()
        for mailing in (running, waiting):
            wait_for(lambda: system.api_ready(), 20, "the API")
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
        (started,) = system.query(
            "SELECT extract(epoch FROM started_at - start_at)::float8 FROM mailings WHERE id = %s",
            waiting,
        )[0]
        # A start that fell into it all was late by:
        witness.verdict.recovery_s = started
        assert started < 15


@pytest.mark.parametrize("theirs", ["finished", "in hand"])
def test_a_stopped_worker_sends_nothing_of_what_is_no_longer_its_own(
    system: System, watch: Watch, theirs: str
) -> None:
    worker = system["dispatch-1"]
    system.provider.set(latency=0.1)
    # A limited one leaves slots free: a worker that came back could use them at once.
    clients, limit = (2_000, None) if theirs == "finished" else (1_200, 60)
    with watch(f"SIGSTOP past lease and end, SIGCONT when its batch is {theirs}") as witness:
        said = worker.log.stat().st_size
        mailing = witness.mailing(clients, rate_limit=limit)
        ended = witness.mailing(2_000, lasts=6.0)
        wait_for(partial(sending, worker, said), 20, "the worker to send")
        worker.freeze()
        witness.blow()
        if theirs == "finished":
            system.wait_finished(mailing, 40)
        else:
            taken = "SELECT count(*) FROM batches WHERE mailing_id = %s AND token > 1"
            wait_for(lambda: system.query(taken, mailing)[0][0], 30, "another to take over")
        system.wait_finished(ended, 20)
        said, thawed = worker.log.stat().st_size, time.time()
        worker.thaw()
        # What it knew it may say, but it finds that its batches are another's by now.
        wait_for(lambda: b'"event":"batch.' in worker.log.read_bytes()[said:], 15, "it to give up")
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        if theirs == "finished":
            wait_for(lambda: time.time() > thawed + pick(1.0, 15.0), 20)
            assert not witness.arrivals(thawed), "something left after it was continued"
        assert not witness.arrivals(thawed, ended), "something left after the end"


def test_a_rolling_restart_in_mid_mailing(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.3)
    with watch("rolling restart (SIGTERM) of all dispatch workers") as witness:
        mailing = witness.mailing(pick(1_500, 6_000))
        witness.wait_received(100)
        slowest = 0.0
        for _ in range(pick(1, 3)):
            for name in system.dispatchers:
                wait_for(partial(serving, system[name]), 20, name)
                began = time.time()
                assert system[name].stop(within=10) == 0
                slowest = max(slowest, time.time() - began)
                system[name].start()
                time.sleep(0.5)
        witness.verdict.notes["slowest stop, s"] = round(slowest, 2)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert done["in_doubt"] == 0
        witness.verdict.recovery_s = 0.0


def test_two_schedulers_one_killed(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.02)
    second = system.add_process("scheduler-2", "worker", "scheduler")
    try:
        with watch("two schedulers, the working one killed") as witness:
            wait_for(lambda: serving(second), 20, "the second")
            mailing = witness.mailing(200, starts_in=2.0)
            system["scheduler"].kill()
            assert second.running
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
            start = "SELECT extract(epoch FROM start_at)::float8 FROM mailings WHERE id = %s"
            (due,) = system.query(start, mailing)[0]
            witness.verdict.recovery_s = witness.arrivals()[0]["at"] - due
            assert 0 <= witness.verdict.recovery_s < 13
            system["scheduler"].start()
    finally:
        second.stop()
        del system.processes["scheduler-2"]


def test_a_scheduler_that_was_away_over_a_start(system: System, watch: Watch) -> None:
    with watch("scheduler stopped over a start") as witness:
        wait_for(lambda: serving(system["scheduler"]), 20, "the scheduler")
        assert system["scheduler"].stop() == 0
        mailing = witness.mailing(300, starts_in=1.0)
        wait_for(lambda: _past_start(system, mailing), 10, "its start to pass")
        time.sleep(pick(1.0, 15.0))
        assert system.statistics(mailing)["status"] == "scheduled"
        system["scheduler"].start()
        started = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        witness.verdict.recovery_s = witness.arrivals()[0]["at"] - started
        assert witness.verdict.recovery_s < 8  # its start, on a machine that has other work


def sending(worker: Process, said: int) -> bool:
    """It has handed something off since its log was `said` bytes long."""
    return b'"message.attempt"' in worker.log.read_bytes()[said:]


def serving(process: Process) -> bool:
    """The process has come so far that it handles SIGTERM itself."""
    assert process.popen
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _past_start(system: System, mailing: int) -> bool:
    return bool(system.query("SELECT start_at < now() FROM mailings WHERE id = %s", mailing)[0][0])
