"""Processes are killed, stopped or restarted while messages are being sent."""

import signal
import time
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import Process, System
from tests.support.waiting import wait_for


def test_killed_dispatch_workers_lose_no_message(
    system: System, observe: Observe, rng: Random
) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with observe("SIGKILL of dispatch workers") as observer:
        mailing = observer.create_mailing(short_or_long(5_000, 30_000))
        observer.wait_for_requests(200)
        for _ in range(short_or_long(3, 12)):
            name = rng.choice(system.dispatchers)
            log_size = system[name].log.stat().st_size
            wait_for(partial(has_sent, system[name], log_size), 20, "the worker to send")
            time.sleep(rng.uniform(0.0, short_or_long(0.8, 2.0)))
            system[name].kill()
            observer.mark_worker_kill()
            system[name].start()
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


def test_workers_killed_at_full_speed_repeat_what_was_in_flight(
    system: System, observe: Observe, rng: Random
) -> None:
    with observe("SIGKILL of dispatch workers at full speed") as observer:
        mailings = []
        for _ in range(short_or_long(3, 20)):
            name = rng.choice(system.dispatchers)
            wait_for(partial(handles_sigterm, system[name]), 20, name)
            log_size = system[name].log.stat().st_size
            mailings.append(observer.create_mailing(10_000))
            wait_for(partial(has_sent, system[name], log_size), 20, "the worker to send", 0.005)
            time.sleep(rng.uniform(0.1, 0.5))
            system[name].kill()
            observer.mark_worker_kill()
            system[name].start()
        for mailing in mailings:
            done = system.wait_finished(mailing, 60)
            assert done["counts"]["sent"] == done["audience"]


@pytest.mark.parametrize("name", ["control", "sweep", "scheduler", "api"])
def test_killed_control_scheduler_or_api_lose_no_mailing(
    system: System, observe: Observe, rng: Random, name: str
) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with observe(f"SIGKILL of {name}") as observer:
        running = observer.create_mailing(short_or_long(3_000, 15_000))
        waiting = observer.create_mailing(100, starts_in=2.0)
        observer.wait_for_requests(100)
        for _ in range(short_or_long(2, 8)):
            time.sleep(rng.uniform(0.1, 0.8))
            system[name].kill()
            system[name].start()
        for mailing in (running, waiting):
            wait_for(lambda: system.api_ready(), 90, "the API")
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
        (started,) = system.query(
            "SELECT extract(epoch FROM started_at - start_at)::float8 FROM mailings WHERE id = %s",
            waiting,
        )[0]
        # The delay of a mailing that started meanwhile:
        observer.result.recovery_s = started
        assert started < 15


@pytest.mark.parametrize("batch_state", ["finished", "taken over"])
def test_continued_worker_sends_nothing_of_batches_it_lost(
    system: System, observe: Observe, batch_state: str
) -> None:
    worker = system["dispatch-1"]
    system.provider.set(latency=0.1)
    # A rate limit leaves slots free, which the continued worker could use at once.
    clients, limit = (2_000, None) if batch_state == "finished" else (1_200, 60)
    with observe(
        f"SIGSTOP past lease and end, SIGCONT when its batch is {batch_state}"
    ) as observer:
        log_size = worker.log.stat().st_size
        mailing = observer.create_mailing(clients, rate_limit=limit)
        ended = observer.create_mailing(2_000, lasts=6.0)
        wait_for(partial(has_sent, worker, log_size), 20, "the worker to send")
        worker.freeze()
        observer.mark_worker_failure()
        if batch_state == "finished":
            system.wait_finished(mailing, 40)
        else:
            taken_over = "SELECT count(*) FROM batches WHERE mailing_id = %s AND token > 1"
            wait_for(
                lambda: system.query(taken_over, mailing)[0][0], 30, "another worker to take over"
            )
        system.wait_finished(ended, 20)
        log_size, thawed = worker.log.stat().st_size, time.time()
        worker.thaw()
        # It may report what it knew, but finds that it holds its batches no more.
        wait_for(
            lambda: b'"event":"batch.' in worker.log.read_bytes()[log_size:],
            15,
            "the worker to release its batches",
        )
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        if batch_state == "finished":
            wait_for(lambda: time.time() > thawed + short_or_long(1.0, 15.0), 20)
            assert not observer.find_requests(thawed), (
                "a request left after the worker was continued"
            )
        assert not observer.find_requests(thawed, ended), "a request left after the end"


def test_rolling_restart_loses_and_repeats_nothing(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.3)
    with observe("rolling restart (SIGTERM) of all dispatch workers") as observer:
        mailing = observer.create_mailing(short_or_long(1_500, 6_000))
        observer.wait_for_requests(100)
        slowest = 0.0
        for _ in range(short_or_long(1, 3)):
            for name in system.dispatchers:
                wait_for(partial(handles_sigterm, system[name]), 20, name)
                began = time.time()
                assert system[name].stop(within=10) == 0
                slowest = max(slowest, time.time() - began)
                system[name].start()
                time.sleep(0.5)
        observer.result.details["slowest stop, s"] = round(slowest, 2)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert done["in_doubt"] == 0
        observer.result.recovery_s = 0.0


def test_second_scheduler_takes_over_from_a_killed_one(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.02)
    second = system.add_process("scheduler-2", "worker", "scheduler")
    try:
        with observe("two schedulers, the working one killed") as observer:
            wait_for(lambda: handles_sigterm(second), 20, "the second scheduler")
            mailing = observer.create_mailing(200, starts_in=2.0)
            system["scheduler"].kill()
            assert second.running
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
            start = "SELECT extract(epoch FROM start_at)::float8 FROM mailings WHERE id = %s"
            (due,) = system.query(start, mailing)[0]
            observer.result.recovery_s = observer.find_requests()[0]["at"] - due
            assert 0 <= observer.result.recovery_s < 13
            system["scheduler"].start()
    finally:
        second.stop()
        del system.processes["scheduler-2"]


def test_scheduler_stopped_over_a_start_launches_late(system: System, observe: Observe) -> None:
    with observe("scheduler stopped over a start") as observer:
        wait_for(lambda: handles_sigterm(system["scheduler"]), 20, "the scheduler")
        assert system["scheduler"].stop() == 0
        mailing = observer.create_mailing(300, starts_in=1.0)
        wait_for(lambda: _is_past_start(system, mailing), 10, "its start to pass")
        time.sleep(short_or_long(1.0, 15.0))
        assert system.statistics(mailing)["status"] == "scheduled"
        system["scheduler"].start()
        started = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        observer.result.recovery_s = observer.find_requests()[0]["at"] - started
        assert observer.result.recovery_s < 8  # the scheduler's own start, on a busy machine


def has_sent(worker: Process, log_size: int) -> bool:
    """Return whether the worker has sent a message since its log had this length."""
    return b'"message.attempt"' in worker.log.read_bytes()[log_size:]


def handles_sigterm(process: Process) -> bool:
    """Return whether the process has installed its handler of SIGTERM."""
    assert process.popen
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _is_past_start(system: System, mailing: int) -> bool:
    return bool(system.query("SELECT start_at < now() FROM mailings WHERE id = %s", mailing)[0][0])
