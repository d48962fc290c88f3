"""Random sequences of all faults over mailings of all kinds."""

import time
from collections.abc import Callable
from random import Random

import psycopg2
import requests
from redis import Redis

from tests.chaos.conftest import Observe
from tests.chaos.observer import Observer
from tests.chaos.run_options import short_or_long
from tests.chaos.test_outages import TERMINATE_CONNECTIONS
from tests.support.system import System
from tests.support.waiting import wait_for

GLITCHES = ("error_500", "reset_after", "html_200", "accepted_hang", "truncated_200", "declined")


def test_random_faults_lose_no_message(system: System, observe: Observe, rng: Random) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15}, seed=rng.randrange(1_000_000))
    faults = make_faults(system, rng)
    with observe("everything at random") as observer:
        observer.unrecorded = 10.0
        mailings = [
            observer.create_mailing(short_or_long(2_000, 8_000)),
            observer.create_mailing(800, lasts=9.0),
        ]
        applied: list[str] = []
        for _ in range(short_or_long(7, 50)):
            time.sleep(rng.uniform(0.2, 1.0))  # a random moment for the next fault
            name = rng.choice(sorted(faults))
            applied.append(name)
            faults[name](observer)
            if rng.random() < 0.5:
                mailings += try_create_mailing(system, observer, rng)
        system.provider.set(faults={})
        wait_for(system.api_ready, 90, "the API")
        for mailing in mailings:
            counts = system.wait_finished(mailing, 90)["counts"]
            assert counts["pending"] == counts["failed"] == counts["cancelled"] == 0
        observer.result.details["faults"] = ", ".join(applied)


def try_create_mailing(system: System, observer: Observer, rng: Random) -> list[int]:
    """Create a mailing, unless the API or its database is down."""
    try:
        return [observer.create_mailing(rng.choice((1, 30, 300)), lasts=rng.choice((8.0, 600.0)))]
    except (AssertionError, requests.RequestException, psycopg2.OperationalError):
        return []


def make_faults(system: System, rng: Random) -> dict[str, Callable[[Observer], object]]:
    def kill(name: str) -> Callable[[Observer], object]:
        def kill_process(observer: Observer) -> None:
            system[name].kill()
            if name in system.dispatchers:
                observer.mark_worker_failure()
            system[name].start()

        return kill_process

    def freeze(observer: Observer) -> None:
        name = rng.choice(system.dispatchers)
        system[name].freeze()
        observer.mark_worker_failure()
        time.sleep(rng.uniform(0.5, 3.0))  # how long the fault lasts
        system[name].thaw()

    def flush_redis(_: Observer) -> None:
        Redis.from_url(system.valkey.url).flushall()

    def stop_redis(_: Observer) -> None:
        system.valkey.kill()
        time.sleep(rng.uniform(0.2, 1.5))  # how long the fault lasts
        system.valkey.start()

    def stop_postgres(_: Observer) -> None:
        system.postgres.kill()
        time.sleep(rng.uniform(0.2, 1.5))  # how long the fault lasts
        system.postgres.start()

    def terminate_connections(_: Observer) -> None:
        with system.database() as cursor:
            cursor.execute(TERMINATE_CONNECTIONS)

    def stop_provider(observer: Observer) -> None:
        system.provider.set(down=True)
        observer.mark_disconnect()
        time.sleep(rng.uniform(0.2, 1.0))  # how long the fault lasts
        system.provider.set(down=False)

    def add_glitches(_: Observer) -> None:
        system.provider.set(faults=dict.fromkeys(GLITCHES, 0.04))
        time.sleep(1.0)  # how long the fault lasts
        system.provider.set(faults={})

    workers = (*system.dispatchers, "control", "sweep", "scheduler")
    kills = {f"kill {name}": kill(name) for name in workers}
    return kills | {
        "kill api": kill("api"),
        "stop and continue": freeze,
        "FLUSHALL": flush_redis,
        "Valkey down": stop_redis,
        "PostgreSQL down": stop_postgres,
        "connections terminated": terminate_connections,
        "provider down": stop_provider,
        "provider glitches": add_glitches,
    }
