"""All kinds of faults in a row, by chance, over mailings of all kinds: what nobody thought of."""

import time
from collections.abc import Callable
from random import Random

import psycopg2
import requests
from redis import Redis

from tests.chaos.conftest import Watch
from tests.chaos.observer import Witness
from tests.chaos.run_options import pick
from tests.chaos.test_outages import CUT
from tests.support.system import System
from tests.support.waiting import wait_for

GLITCHES = ("error_500", "reset_after", "html_200", "accepted_hang", "truncated_200", "declined")


def test_everything_at_random(system: System, watch: Watch, rng: Random) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15}, seed=rng.randrange(1_000_000))
    faults = make_faults(system, rng)
    with watch("everything at random") as witness:
        witness.unrecorded = 10.0
        mailings = [witness.mailing(pick(2_000, 8_000)), witness.mailing(800, lasts=9.0)]
        done: list[str] = []
        for _ in range(pick(7, 50)):
            time.sleep(rng.uniform(0.2, 1.0))
            name = rng.choice(sorted(faults))
            done.append(name)
            faults[name](witness)
            if rng.random() < 0.5:
                mailings += maybe_mailing(system, witness, rng)
        system.provider.set(faults={})
        wait_for(system.api_ready, 20, "the API")
        for mailing in mailings:
            counts = system.wait_finished(mailing, 90)["counts"]
            assert counts["pending"] == counts["failed"] == counts["cancelled"] == 0
        witness.verdict.notes["done"] = ", ".join(done)


def maybe_mailing(system: System, witness: Witness, rng: Random) -> list[int]:
    """A mailing, unless the API or its database happens to be away."""
    try:
        return [witness.mailing(rng.choice((1, 30, 300)), lasts=rng.choice((8.0, 600.0)))]
    except (AssertionError, requests.RequestException, psycopg2.OperationalError):
        return []


def make_faults(system: System, rng: Random) -> dict[str, Callable[[Witness], object]]:
    def kill(name: str) -> Callable[[Witness], object]:
        def strike(witness: Witness) -> None:
            system[name].kill()
            if name in system.dispatchers:
                witness.blow()
            system[name].start()

        return strike

    def freeze(witness: Witness) -> None:
        name = rng.choice(system.dispatchers)
        system[name].freeze()
        witness.blow()
        time.sleep(rng.uniform(0.5, 3.0))
        system[name].thaw()

    def flush(_: Witness) -> None:
        Redis.from_url(system.valkey.url).flushall()

    def redis_away(_: Witness) -> None:
        system.valkey.kill()
        time.sleep(rng.uniform(0.2, 1.5))
        system.valkey.start()

    def postgres_away(_: Witness) -> None:
        system.postgres.kill()
        time.sleep(rng.uniform(0.2, 1.5))
        system.postgres.start()

    def cut(_: Witness) -> None:
        with system.database() as cursor:
            cursor.execute(CUT)

    def provider_away(witness: Witness) -> None:
        system.provider.set(down=True)
        witness.cut()
        time.sleep(rng.uniform(0.2, 1.0))
        system.provider.set(down=False)

    def glitch(_: Witness) -> None:
        system.provider.set(faults=dict.fromkeys(GLITCHES, 0.04))
        time.sleep(1.0)
        system.provider.set(faults={})

    kills = {f"kill {name}": kill(name) for name in (*system.dispatchers, "control", "scheduler")}
    return kills | {
        "kill api": kill("api"),
        "stop and continue": freeze,
        "FLUSHALL": flush,
        "Valkey away": redis_away,
        "PostgreSQL away": postgres_away,
        "connections cut": cut,
        "provider away": provider_away,
        "provider's glitches": glitch,
    }
