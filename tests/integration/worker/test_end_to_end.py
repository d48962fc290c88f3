"""Mailings end to end with real processes: from clients to statistics."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from http.client import HTTPConnection

from tests.support.system import TOKEN, System, rfc3339
from tests.support.waiting import wait_for

RUSSIAN_ZONES = (
    "Europe/Kaliningrad",
    "Europe/Moscow",
    "Europe/Samara",
    "Asia/Yekaterinburg",
    "Asia/Omsk",
    "Asia/Krasnoyarsk",
    "Asia/Irkutsk",
    "Asia/Yakutsk",
    "Asia/Vladivostok",
    "Asia/Magadan",
    "Asia/Kamchatka",
)
TAGS = ("vip", "new", "old", "")
CLIENTS = 20_000


def load_clients(system: System, count: int) -> dict[int, dict[str, str]]:
    """Create clients over the API on eight connections; return them by id."""
    local = threading.local()
    connections = ExitStack()

    def create(n: int) -> dict[str, str]:
        if not hasattr(local, "http"):
            connection = HTTPConnection("127.0.0.1", system.api_port, timeout=30)
            local.http = connections.enter_context(closing(connection))
        client = {
            "phone": f"79{n % 10:02d}{n:07d}",
            "tag": TAGS[n % len(TAGS)],
            "timezone": RUSSIAN_ZONES[n % len(RUSSIAN_ZONES)],
        }
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        local.http.request("POST", "/api/v1/clients", json.dumps(client), headers)
        answer = local.http.getresponse()
        body: dict[str, str] = json.loads(answer.read())
        assert answer.status == 201, body
        return body

    with connections, ThreadPoolExecutor(8) as pool:
        return {int(c["id"]): c for c in pool.map(create, range(count))}


def test_a_mailing_reaches_its_audience_once_and_on_time(system: System) -> None:
    clients = load_clients(system, CLIENTS)
    assert {c["timezone"] for c in clients.values()} == set(RUSSIAN_ZONES)
    chosen = {"operator_codes": ["901", "902", "903"], "tags": ["vip", "new"]}
    expected = {
        int(c["phone"])
        for c in clients.values()
        if c["operator_code"] in chosen["operator_codes"] and c["tag"] in chosen["tags"]
    }
    assert 1_000 < len(expected) < CLIENTS / 2
    start = time.time() + 5
    mailing = system.call(
        "POST",
        "/mailings",
        expect=201,
        json={
            "text": "Скидка 10 % до пятницы",
            "start_at": rfc3339(start),
            "end_at": rfc3339(start + 600),
            "filter": chosen,
        },
    )
    assert mailing["status"] == "scheduled"
    sums_differ: list[dict[str, object]] = []

    def is_finished() -> bool:
        now = system.statistics(mailing["id"])
        if now["audience"] != sum(now["counts"].values()):
            sums_differ.append(now)
        return bool(now["status"] == "finished")

    wait_for(is_finished, 30, "the mailing to start by itself and finish")
    assert not sums_differ

    received = list(system.provider.requests())
    assert Counter(r["phone"] for r in received) == Counter(expected), "each client exactly once"
    assert {r["text"] for r in received} == {"Скидка 10 % до пятницы"}
    arrivals = [r["at"] for r in received]
    assert start <= min(arrivals) <= start + 3, f"started {min(arrivals) - start:+.2f} s from time"
    statistics = system.statistics(mailing["id"])
    assert statistics["counts"]["sent"] == statistics["audience"] == len(expected)
    started_at = system.call("GET", f"/mailings/{mailing['id']}")["started_at"]
    assert datetime.fromisoformat(started_at).timestamp() >= start
    system.check_totals()

    # The paginated list of messages agrees.
    ids, cursor = [], None
    while True:
        query = {"status": "sent", "limit": 500} | ({"cursor": cursor} if cursor else {})
        page = system.call("GET", f"/mailings/{mailing['id']}/messages", params=query)
        ids += [m["id"] for m in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(ids) == sorted(r["id"] for r in received)
    one = system.call("GET", f"/messages/{ids[0]}")
    assert one["status"] == "sent"
    assert one["attempts"] == 1


def test_ten_thousand_messages_are_sent_within_seconds(system: System) -> None:
    system.provider.clear_requests()
    system.add_clients(10_000, tag="crowd")
    mailing = system.create_mailing(filter={"operator_codes": [], "tags": ["crowd"]})
    statistics = system.wait_finished(mailing, 15)
    assert statistics["counts"]["sent"] == 10_000
    summary = system.provider.summary()
    assert (summary["accepted"], summary["distinct"]) == (10_000, 10_000)


def test_no_message_is_lost_when_a_dispatcher_is_killed(system: System) -> None:
    system.provider.reset()
    system.provider.set(latency=0.05)
    system.add_clients(6_000, tag="killed")
    mailing = system.create_mailing(filter={"operator_codes": [], "tags": ["killed"]})
    wait_for(lambda: system.provider.stats()["received"] > 500, 20, "some to be sent")
    system["dispatch-1"].kill()
    system["dispatch-1"].start()
    statistics = system.wait_finished(mailing, 60)
    assert statistics["counts"]["sent"] == 6_000
    system.check_totals()
    summary = system.provider.summary()
    assert summary["distinct"] == 6_000
    # Sent twice, under the same id: at most what was in flight, which PROVIDER_CONCURRENCY limits.
    assert summary["received"] - 6_000 <= 1_000
    system.provider.reset()


def test_deleting_a_mailing_stops_it_within_a_second(system: System) -> None:
    system.provider.reset()
    system.provider.set(latency=0.1)
    system.add_clients(10_000, tag="deleted")
    mailing = system.create_mailing(filter={"operator_codes": [], "tags": ["deleted"]})
    wait_for(lambda: system.provider.stats()["received"] > 200, 20, "some to be sent")
    system.call("DELETE", f"/mailings/{mailing}", expect=204)
    deleted_at = time.time()
    wait_for(
        lambda: system.query("SELECT settled FROM mailings WHERE id = %s", mailing)[0][0],
        15,
        "the mailing to be settled",
    )
    last = max(r["at"] for r in system.provider.requests())
    assert last < deleted_at + 1.0
    system.call("GET", f"/mailings/{mailing}/statistics", expect=404)
    system.check_totals()
    system.provider.reset()
