"""The provider is down, fails in every known way, hangs, throttles, or refuses the token."""

import time
from random import Random

import requests
from redis import Redis

from dev.provider.faults import FAULTS
from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import PROVIDER_TOKEN, TOKEN, System
from tests.support.waiting import wait_for

# Each of these pauses all sending for a while, not only one message.
PAUSING = {"throttle_429", "throttle_429_date", "error_503_retry_after", "unauthorized_401"}


def test_nothing_is_sent_while_the_provider_is_down(system: System, observe: Observe) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.1})
    away = short_or_long(2.5, 30.0)
    with observe(f"provider down for {away:.0f} s") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 10_000))
        observer.wait_for_requests(200)
        system.provider.set(down=True)
        observer.mark_disconnect()
        time.sleep(away)
        before = observer.count_requests()
        system.provider.set(down=False)
        back = time.time()
        assert before == observer.count_requests()
        observer.wait_for_recovery(back, 40)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


def test_thirty_percent_of_all_faults_lose_no_message(
    system: System, observe: Observe, rng: Random
) -> None:
    # The provider blocks while it generates its largest answers for the first time.
    for kind in ("gzip_bomb_200", "big_200"):
        system.provider.set(faults={kind: 1.0})
        requests.post(
            f"http://127.0.0.1:{system.provider_port}/v1/send/1",
            json={"id": 1, "phone": 1, "text": "1"},
            headers={"Authorization": f"Bearer {PROVIDER_TOKEN}", "Accept-Encoding": "identity"},
            stream=True,
            timeout=30,
        ).close()
    each = 0.3 / len(FAULTS)
    faults = {kind: each / 4 if kind in PAUSING else each for kind in FAULTS}
    system.provider.set(
        latency=0.02,
        faults=faults,
        retry_after=1,
        late_after=3.0,
        drip_interval=0.2,
        seed=rng.randrange(1_000_000),
    )
    with observe("30 % errors of every kind") as observer:
        mailings = [
            observer.create_mailing(short_or_long(60, 1_000), lasts=short_or_long(25.0, 600.0))
            for _ in range(short_or_long(4, 5))
        ]
        for mailing in mailings:
            done = system.wait_finished(mailing, short_or_long(60, 700))
            counts = done["counts"]
            rejected = {
                row["id"]
                for row in observer.find_requests(mailing_id=mailing)
                if row["answer"] in ("reject_400", "reject_422")
            }
            assert counts["failed"] <= len(rejected)
            assert counts["sent"] + counts["failed"] + counts["expired"] == done["audience"]
            # A message expires only after a long series of faults.
            assert counts["expired"] <= done["audience"] * 0.3
        refused = system.provider.stats()["refused"]
        observer.result.details["kinds of refusal met"] = f"{len(refused)}: {sum(refused.values())}"


def test_hanging_provider_slows_neither_api_nor_pause(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.05)
    with observe("provider hangs every request") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 6_000))
        other = observer.create_mailing(1_000)
        observer.wait_for_requests(200)
        usual = api_latency(system, other)
        # Some requests succeed at first, so that there is something to pause.
        system.provider.set(faults={"hang": 0.6})
        time.sleep(0.5)
        system.call("POST", f"/mailings/{other}/pause")
        paused = time.time()
        time.sleep(1.5)
        assert not observer.find_requests(paused + 1.0, other), (
            "a request more than a second after the pause"
        )
        system.provider.set(faults={"hang": 1.0})
        time.sleep(short_or_long(2.0, 20.0))
        during = api_latency(system, other)
        observer.result.details["API latency, median ms"] = (
            f"{usual:.1f} before, {during:.1f} during"
        )
        assert during < max(2 * usual, 30)
        system.provider.set(faults={})
        back = time.time()
        observer.wait_for_recovery(back, 70)
        system.call("POST", f"/mailings/{other}/resume")
        for each in (mailing, other):
            done = system.wait_finished(each, 60)
            assert done["counts"]["sent"] == done["audience"]


def test_retry_after_of_a_429_is_respected(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.05)
    with observe("429 with Retry-After: 3") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 10_000))
        observer.wait_for_requests(200)
        for _ in range(short_or_long(1, 4)):
            system.provider.set(faults={"throttle_429": 1.0}, retry_after=3)
            wait_for(lambda: "throttle_429" in system.provider.stats()["refused"], 10, "a 429")
            time.sleep(0.5)
            system.provider.set(faults={})
            refused = [r["at"] for r in observer.find_requests() if r["answer"] == "throttle_429"]
            # All workers learn it within two syncs of the breaker; then nothing is sent.
            early = observer.find_requests(refused[0] + 0.5)
            early = [row for row in early if row["at"] < refused[0] + 2.9]
            assert not early, f"{len(early)} requests before Retry-After had passed"
            last = max(refused)
            observer.wait_for_recovery(last, 10)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert attempts(system, mailing) == {1}, "a throttled answer counts no attempt"
        observer.result.details["429s"] = len(refused)


def test_refused_token_pauses_sending_until_corrected(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.05)
    away = short_or_long(2.0, 20.0)
    with observe(f"token refused for {away:.0f} s, then corrected") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 6_000))
        observer.wait_for_requests(200)
        system.provider.set(token="another")
        wait_for(
            lambda: breaker_reason(system) == "unauthorized", 3, "the breaker to state the reason"
        )
        time.sleep(away)
        refused = system.provider.stats()["refused"]["unauthorized"]
        system.provider.set(token=PROVIDER_TOKEN)
        back = time.time()
        observer.wait_for_recovery(back, 70)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert attempts(system, mailing) == {1}, "a refused token counts no attempt"
        observer.result.details["401s"] = refused
        assert refused < 150, "too many requests with a refused token"


def attempts(system: System, mailing_id: int) -> set[int]:
    rows = system.query("SELECT DISTINCT attempts FROM messages WHERE mailing_id = %s", mailing_id)
    return {row[0] for row in rows}


def breaker_reason(system: System) -> str:
    found = Redis.from_url(system.valkey.url).hget("notification:breaker", "reason")
    return found.decode() if isinstance(found, bytes) else ""


def api_latency(system: System, mailing_id: int) -> float:
    """Return the median of 21 requests in milliseconds."""
    times = []
    for _ in range(21):
        began = time.perf_counter()
        answer = requests.get(
            f"http://127.0.0.1:{system.api_port}/api/v1/mailings/{mailing_id}/statistics",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=10,
        )
        assert answer.status_code == 200
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)[10]
