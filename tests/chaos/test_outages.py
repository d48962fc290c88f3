"""PostgreSQL and Redis lose their data, are killed, or drop connections."""

import time
from random import Random

import psycopg2
import requests
from redis import Redis

from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import TOKEN, System
from tests.support.waiting import wait_for

TERMINATE_CONNECTIONS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def test_flushed_redis_loses_no_message(system: System, observe: Observe, rng: Random) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with observe("FLUSHALL in mid-mailing") as observer:
        running = observer.create_mailing(short_or_long(3_000, 15_000))
        waiting = observer.create_mailing(200, starts_in=3.0)
        observer.wait_for_requests(200)
        for _ in range(short_or_long(2, 6)):
            time.sleep(rng.uniform(0.1, 0.6))
            Redis.from_url(system.valkey.url).flushall()
            flushed = time.time()
        observer.wait_for_recovery(flushed, 10)
        for mailing in (running, waiting):
            done = system.wait_finished(mailing, 40)
            assert done["counts"]["sent"] == done["audience"]
        start = system.query(
            "SELECT extract(epoch FROM start_at)::float8 FROM mailings WHERE id = %s", waiting
        )[0][0]
        late = observer.find_requests(mailing_id=waiting)[0]["at"] - start
        observer.result.details["the next start was late by, s"] = round(late, 1)
        assert late < 5


def test_killed_redis_delays_mailings_only(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.1)
    away = short_or_long(3.0, 15.0)
    with observe(f"Valkey killed for {away:.0f} s") as observer:
        running = observer.create_mailing(short_or_long(1_500, 4_000))
        observer.wait_for_requests(200)
        system.valkey.kill()
        killed = time.time()
        meanwhile = []
        slowest = 0.0
        while time.time() < killed + away:
            began = time.time()
            meanwhile.append(observer.create_mailing(50))
            slowest = max(slowest, time.time() - began)
            time.sleep(away / 6)
        system.valkey.start()
        back = time.time()
        for mailing in (running, *meanwhile):
            done = system.wait_finished(mailing, 60)
            assert done["counts"]["sent"] == done["audience"]
        first = observer.find_requests(mailing_id=meanwhile[-1])[0]["at"]
        observer.result.recovery_s = max(0.0, first - back)
        observer.result.details["slowest creation meanwhile, s"] = round(slowest, 2)
        assert observer.result.recovery_s < 15


def test_killed_postgresql_gives_503_and_recovers(
    system: System, observe: Observe, rng: Random
) -> None:
    system.provider.set(latency=0.1)
    away = short_or_long(2.0, 20.0)
    with observe(f"PostgreSQL killed for {away:.0f} s") as observer:
        mailing = observer.create_mailing(short_or_long(2_000, 6_000))
        observer.wait_for_requests(200)
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
        observer.result.details["slowest 503, s"] = round(slowest, 2)
        assert slowest < 3
        system.postgres.start()
        back = time.time()
        wait_for(system.api_ready, 10, "the API to recover without a restart")
        observer.wait_for_recovery(back, 15)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


def test_terminated_postgresql_connections_are_reopened(
    system: System, observe: Observe, rng: Random
) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.15})
    with observe("all connections to PostgreSQL terminated, repeatedly") as observer:
        mailing = observer.create_mailing(short_or_long(4_000, 20_000))
        observer.wait_for_requests(100)
        for _ in range(short_or_long(4, 20)):
            time.sleep(rng.uniform(0.1, 0.6))
            connection = psycopg2.connect(system.postgres.url)
            with connection.cursor() as cursor:
                cursor.execute(TERMINATE_CONNECTIONS)
            connection.close()
            cut = time.time()
        observer.wait_for_recovery(cut, 10)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
