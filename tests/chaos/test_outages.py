"""PostgreSQL and Redis that lose everything, die, or cut the line."""

import time
from random import Random

import psycopg2
import requests
from redis import Redis

from tests.chaos.conftest import Watch
from tests.chaos.run_options import pick
from tests.support.system import TOKEN, System
from tests.support.waiting import wait_for

CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def test_redis_forgets_everything(system: System, watch: Watch, rng: Random) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with watch("FLUSHALL in mid-mailing") as witness:
        running = witness.mailing(pick(3_000, 15_000))
        waiting = witness.mailing(200, starts_in=3.0)
        witness.wait_received(200)
        for _ in range(pick(2, 6)):
            time.sleep(rng.uniform(0.1, 0.6))
            Redis.from_url(system.valkey.url).flushall()
            flushed = time.time()
        witness.recovered(flushed, 10)
        for mailing in (running, waiting):
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
        start = system.query(
            "SELECT extract(epoch FROM start_at)::float8 FROM mailings WHERE id = %s", waiting
        )[0][0]
        late = witness.arrivals(mailing_id=waiting)[0]["at"] - start
        witness.verdict.notes["the next start was late by, s"] = round(late, 1)
        assert late < 5


def test_redis_is_killed(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.1)
    away = pick(3.0, 15.0)
    with watch(f"Valkey killed for {away:.0f} s") as witness:
        running = witness.mailing(pick(1_500, 4_000))
        witness.wait_received(200)
        system.valkey.kill()
        killed = time.time()
        meanwhile = []
        slowest = 0.0
        while time.time() < killed + away:
            began = time.time()
            meanwhile.append(witness.mailing(50))
            slowest = max(slowest, time.time() - began)
            time.sleep(away / 6)
        system.valkey.start()
        back = time.time()
        for mailing in (running, *meanwhile):
            done = system.wait_finished(mailing, 60)
            assert done["counts"]["sent"] == done["audience"]
        first = witness.arrivals(mailing_id=meanwhile[-1])[0]["at"]
        witness.verdict.recovery_s = max(0.0, first - back)
        witness.verdict.notes["slowest creation meanwhile, s"] = round(slowest, 2)
        assert witness.verdict.recovery_s < 15


def test_postgresql_is_killed(system: System, watch: Watch, rng: Random) -> None:
    system.provider.set(latency=0.1)
    away = pick(2.0, 20.0)
    with watch(f"PostgreSQL killed for {away:.0f} s") as witness:
        mailing = witness.mailing(pick(2_000, 6_000))
        witness.wait_received(200)
        if rng.random() < 0.5:
            system.postgres.stop("immediate")
        else:
            system.postgres.kill()
        killed = time.time()
        slowest = 0.0
        while time.time() < killed + away:
            began = time.time()
            answer = requests.get(
                f"http://127.0.0.1:{system.api_port}/api/v1/mailings/{mailing}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=10,
            )
            slowest = max(slowest, time.time() - began)
            assert answer.status_code == 503
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) > 0
            time.sleep(0.2)
        witness.verdict.notes["slowest 503, s"] = round(slowest, 2)
        assert slowest < 3
        system.postgres.start()
        back = time.time()
        wait_for(system.api_ready, 10, "the API to serve again, without a restart")
        witness.recovered(back, 15)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


def test_connections_to_postgresql_are_cut(system: System, watch: Watch, rng: Random) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with watch("all connections to PostgreSQL cut, repeatedly") as witness:
        mailing = witness.mailing(pick(4_000, 20_000))
        witness.wait_received(100)
        for _ in range(pick(4, 20)):
            time.sleep(rng.uniform(0.1, 0.6))
            connection = psycopg2.connect(system.postgres.url)
            with connection.cursor() as cursor:
                cursor.execute(CUT)
            connection.close()
            cut = time.time()
        witness.recovered(cut, 10)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
