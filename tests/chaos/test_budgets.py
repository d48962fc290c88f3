"""Four workers at the end of a budget, with kills and repeats: it is never exceeded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.domain.segments import measure_segments
from tests.chaos.conftest import SETTINGS
from tests.support.system import System
from tests.support.waiting import wait_for

CLIENTS = 3_000
LIMIT = 2_501  # odd, while one mailing's messages have two segments each
CYRILLIC = "{name|Дорогой клиент}, только сегодня: все товары за полцены, приходите к нам."


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("budgets") / Path("system"), dispatchers=4, **SETTINGS)
    try:
        yield system.start()
    finally:
        system.stop()


def set_budget(system: System, segments: int) -> None:
    answer = system.http.get(f"http://127.0.0.1:{system.api_port}/api/v1/policy")
    body = answer.json() | {"budget": {"month": {"segments": segments}}}
    headers = {"If-Match": answer.headers["ETag"]}
    system.call("PUT", "/policy", json=body, headers=headers)


def accepted_segments(system: System) -> int:
    """Recount what the provider has accepted, each message once."""
    texts = {row["id"]: row["text"] for row in system.provider.requests() if row["accepted"]}
    return sum(measure_segments(text).segments for text in texts.values())


@pytest.mark.timeout(600)
def test_four_workers_never_exceed_a_budget(system: System) -> None:
    system.add_clients(CLIENTS)
    system.provider.set(latency=0.03, faults={"error_503": 0.1, "reset_after": 0.1})
    set_budget(system, LIMIT)
    mailings = [system.create_mailing(text=text) for text in (CYRILLIC, "Hello")]
    kills = iter(system.dispatchers[:3])

    def all_paused() -> bool:
        use = system.call("GET", "/policy/budget")["month"]
        assert use["spent"] + use["reserved"] <= LIMIT
        assert accepted_segments(system) <= LIMIT
        if use["spent"] > LIMIT / 4 and (name := next(kills, None)):
            system[name].kill()
            system[name].start()
        found = [system.call("GET", f"/mailings/{mailing_id}") for mailing_id in mailings]
        return all(mailing["pause_reason"] == "budget" for mailing in found)

    wait_for(all_paused, 240, "both mailings paused")
    assert next(kills, None) is None
    system.check_totals()
    use = system.call("GET", "/policy/budget")["month"]
    assert LIMIT - 1 <= use["spent"] <= LIMIT
    assert use["reserved"] == 0
    known = system.query("SELECT id FROM messages WHERE status = 'sent' OR in_doubt")
    assert system.provider.accepted_ids() <= {id_ for (id_,) in known}
    assert accepted_segments(system) <= LIMIT

    # Nothing is lost: with a larger budget both go on, and finish.
    for mailing_id in mailings:
        refused = system.call("POST", f"/mailings/{mailing_id}/resume", expect=409)
        assert refused["code"] == "budget_used_up"
    set_budget(system, 10 * LIMIT)
    for mailing_id in mailings:
        system.call("POST", f"/mailings/{mailing_id}/resume")
    for mailing_id in mailings:
        assert system.wait_finished(mailing_id, 120)["counts"]["sent"] == CLIENTS
    assert system.call("GET", "/policy/budget")["month"]["spent"] == 3 * CLIENTS
    system.check_totals()
