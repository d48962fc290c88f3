"""A provider that is down, drowned, deaf, confused, or refuses our token."""

import time
from random import Random

import requests
from redis import Redis

from dev.provider.faults import FAULTS
from tests.chaos.conftest import Watch
from tests.chaos.run_options import pick
from tests.support.system import PROVIDER_TOKEN, TOKEN, System
from tests.support.waiting import wait_for

# What each of these does to one message it would do to all of them for a while.
PAUSING = {"throttle_429", "throttle_429_date", "error_503_retry_after", "unauthorized_401"}


def test_the_provider_is_down_for_a_while(system: System, watch: Watch) -> None:
    system.provider.set(latency={"min": 0.02, "max": 0.1})
    away = pick(2.5, 30.0)
    with watch(f"provider down for {away:.0f} s") as witness:
        mailing = witness.mailing(pick(3_000, 10_000))
        witness.wait_received(200)
        system.provider.set(down=True)
        witness.cut()
        time.sleep(away)
        before = witness.received()
        system.provider.set(down=False)
        back = time.time()
        assert before == witness.received()
        witness.recovered(back, 40)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]


def test_three_in_ten_go_wrong_in_every_way(system: System, watch: Watch, rng: Random) -> None:
    # The provider stands still while it makes its largest answers for the first time.
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
    with watch("30 % errors of every kind") as witness:
        mailings = [
            witness.mailing(pick(60, 1_000), lasts=pick(25.0, 600.0)) for _ in range(pick(4, 5))
        ]
        for mailing in mailings:
            done = system.wait_finished(mailing, pick(60, 700))
            counts = done["counts"]
            rejected = {
                row["id"]
                for row in witness.arrivals(mailing_id=mailing)
                if row["answer"] in ("reject_400", "reject_422")
            }
            assert counts["failed"] <= len(rejected)
            assert counts["sent"] + counts["failed"] + counts["expired"] == done["audience"]
            # Only what had a long run of bad luck meets the end.
            assert counts["expired"] <= done["audience"] * 0.3
        refused = system.provider.stats()["refused"]
        witness.verdict.notes["kinds of refusal met"] = f"{len(refused)}: {sum(refused.values())}"


def test_the_provider_hangs(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.05)
    with watch("provider hangs every request") as witness:
        mailing = witness.mailing(pick(3_000, 6_000))
        other = witness.mailing(1_000)
        witness.wait_received(200)
        usual = api_latency(system, other)
        # At first some get through, so that there is something to be paused.
        system.provider.set(faults={"hang": 0.6})
        time.sleep(0.5)
        system.call("POST", f"/mailings/{other}/pause")
        paused = time.time()
        time.sleep(1.5)
        assert not witness.arrivals(paused + 1.0, other), "more than a second after the pause"
        system.provider.set(faults={"hang": 1.0})
        time.sleep(pick(2.0, 20.0))
        during = api_latency(system, other)
        witness.verdict.notes["API latency, median ms"] = f"{usual:.1f} before, {during:.1f} during"
        assert during < max(2 * usual, 30)
        system.provider.set(faults={})
        back = time.time()
        witness.recovered(back, 70)
        system.call("POST", f"/mailings/{other}/resume")
        for each in (mailing, other):
            done = system.wait_finished(each, 60)
            assert done["counts"]["sent"] == done["audience"]


def test_the_provider_says_too_many(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.05)
    with watch("429 with Retry-After: 3") as witness:
        mailing = witness.mailing(pick(3_000, 10_000))
        witness.wait_received(200)
        for _ in range(pick(1, 4)):
            system.provider.set(faults={"throttle_429": 1.0}, retry_after=3)
            wait_for(lambda: "throttle_429" in system.provider.stats()["refused"], 10, "a 429")
            time.sleep(0.5)
            system.provider.set(faults={})
            refused = [r["at"] for r in witness.arrivals() if r["answer"] == "throttle_429"]
            # The fleet knows within two syncs of the breaker; then nobody says a word.
            early = witness.arrivals(refused[0] + 0.5)
            early = [row for row in early if row["at"] < refused[0] + 2.9]
            assert not early, f"{len(early)} sent while asked to wait"
            last = max(refused)
            witness.recovered(last, 10)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert attempts(system, mailing) == {1}, "a throttled answer burns no attempt"
        witness.verdict.notes["429s"] = len(refused)


def test_the_token_is_refused_then_corrected(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.05)
    away = pick(2.0, 20.0)
    with watch(f"token refused for {away:.0f} s, then corrected") as witness:
        mailing = witness.mailing(pick(3_000, 6_000))
        witness.wait_received(200)
        system.provider.set(token="another")
        wait_for(lambda: breaker_reason(system) == "unauthorized", 3, "the breaker to say why")
        time.sleep(away)
        refused = system.provider.stats()["refused"]["unauthorized"]
        system.provider.set(token=PROVIDER_TOKEN)
        back = time.time()
        witness.recovered(back, 70)
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        assert attempts(system, mailing) == {1}, "a refused token burns no attempt"
        witness.verdict.notes["401s"] = refused
        assert refused < 150, "not hammered"


def attempts(system: System, mailing_id: int) -> set[int]:
    rows = system.query("SELECT DISTINCT attempts FROM messages WHERE mailing_id = %s", mailing_id)
    return {row[0] for row in rows}


def breaker_reason(system: System) -> str:
    found = Redis.from_url(system.valkey.url).hget("notification:breaker", "reason")
    return found.decode() if isinstance(found, bytes) else ""


def api_latency(system: System, mailing_id: int) -> float:
    """The median of some requests, in milliseconds."""
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
