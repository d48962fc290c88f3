"""Test sends through the real processes and the simulated provider; and a client's history."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.mailings.message_schemas import MessageDetails, MessagePage
from api.mailings.preview_schemas import TestSendAnswer
from tests.support.system import System

URL = "/mailings/test-send"
LIMIT = 12


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = Path(tmp_path_factory.mktemp("system"))
    system = System(directory, dispatchers=1, TEST_SENDS_PER_MINUTE=LIMIT, PROVIDER_TIMEOUT=2)
    try:
        yield system.start()
    finally:
        system.stop()


@pytest.fixture(autouse=True)
def reset_limits(system: System) -> None:
    """Reset the limit per minute and the provider before each test."""
    with system.database() as cursor:
        cursor.execute("UPDATE test_sends SET created_at = created_at - interval '2 minutes'")
    system.provider.reset()


def send(system: System, *phones: int, text: str = "Hello") -> list[dict[str, Any]]:
    body = {"text": text, "phones": [str(phone) for phone in phones]}
    answer = system.call("POST", URL, json=body, expect=200)
    TestSendAnswer.model_validate(answer)
    items: list[dict[str, Any]] = answer["items"]
    return items


def post_test_send(system: System, body: dict[str, Any]) -> Any:
    return system.http.post(f"http://127.0.0.1:{system.api_port}/api/v1{URL}", json=body)


def test_a_test_is_sent_at_once_and_belongs_to_no_mailing(system: System) -> None:
    system.add_clients(1, tag="known")
    ((phone, client_id),) = system.query("SELECT phone, id FROM clients")
    system.call("PATCH", f"/clients/{client_id}", json={"attributes": {"name": "Anna"}})
    system.call("POST", "/opt-outs", json={"phones": ["79990000002"]})
    before = system.call("GET", "/statistics")
    items = send(system, phone, 79990000001, 79990000002, text="Dear {name|client}!")
    assert [item["outcome"] for item in items] == ["accepted", "accepted", "opted_out"]
    assert items[0]["http_status"] == 200
    seen = [(r["id"], r["phone"], r["text"]) for r in system.provider.requests()]
    assert sorted(seen) == [
        (items[0]["message_id"], phone, "Dear Anna!"),
        (items[1]["message_id"], 79990000001, "Dear client!"),
    ]
    assert system.call("GET", "/statistics") == before
    system.call("GET", f"/messages/{items[0]['message_id']}", expect=404)
    (entry,) = system.call("GET", "/audit?entity=test_send")["items"]
    assert entry["action"] == "sent"
    assert entry["changes"]["phones"][1:] == ["7999***0001", "7999***0002"]
    # A mailing's messages never get the same ids.
    mailing_id = system.create_mailing(filter={"tags": ["known"]})
    system.wait_finished(mailing_id)
    (message,) = system.call("GET", f"/mailings/{mailing_id}/messages")["items"]
    assert message["id"] not in {item["message_id"] for item in items}


def test_each_outcome_is_returned(system: System) -> None:
    kinds = {
        79990000011: ("reject_400", "rejected"),
        79990000012: ("error_500", "unavailable"),
        79990000013: ("hang", "unknown"),
        79990000014: ("ok", "accepted"),
    }
    faults = {phone: kind for phone, (kind, _) in kinds.items() if kind != "ok"}
    system.provider.set(phones=faults)
    started = time.monotonic()
    items = send(system, *kinds)
    assert time.monotonic() - started < 6
    assert [item["outcome"] for item in items] == [outcome for _, outcome in kinds.values()]
    assert items[0]["excerpt"]
    (item,) = send(system, 79990000015, text="{name}")
    assert (item["outcome"], item["reason"]) == ("not_sent", "missing attribute: name")


def test_a_test_is_sent_while_mailings_wait_for_the_breaker(system: System) -> None:
    """Launches and sweeps do not wait for a test either."""
    system.add_clients(300, tag="many")
    system.provider.set(faults={"hang": 1.0})
    mailing_id = system.create_mailing(filter={"tags": ["many"]})
    thread = threading.Thread(target=send, args=(system, 79990000021))
    thread.start()
    small = system.create_mailing(filter={"tags": ["unused"]})
    system.wait_finished(small, 4)
    thread.join()
    system.provider.set(faults={})
    (item,) = send(system, 79990000022)
    assert item["outcome"] == "accepted"
    system.call("DELETE", f"/mailings/{mailing_id}")


def test_without_a_worker_nothing_is_sent_and_the_answer_is_503(system: System) -> None:
    system["control"].freeze()
    try:
        answer = post_test_send(system, {"text": "late", "phones": ["79990000031"]})
    finally:
        system["control"].thaw()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "nothing was sent" in answer.json()["detail"]
    (item,) = send(system, 79990000032)  # behind the late one in the queue
    assert item["outcome"] == "accepted"
    assert [r["phone"] for r in system.provider.requests()] == [79990000032]


def test_tests_are_limited_per_minute(system: System) -> None:
    send(system, *range(79990000100, 79990000110))
    answer = post_test_send(
        system, {"text": "x", "phones": ["79990000041", "79990000042", "79990000043"]}
    )
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    send(system, 79990000041, 79990000042)
    assert post_test_send(system, {"text": "x", "phones": ["79990000043"]}).status_code == 429
    assert system.provider.stats()["accepted"] == LIMIT


@pytest.mark.parametrize(
    "body",
    [
        {"text": "x", "phones": []},
        {"text": "", "phones": ["79990000001"]},
        {"text": "x", "phones": [str(79990000000 + n) for n in range(11)]},
        {"text": "x", "phones": ["123"]},
        {"text": "{", "phones": ["79990000001"]},
        {"phones": ["79990000001"]},
    ],
)
def test_invalid_input_sends_nothing(system: System, body: dict[str, Any]) -> None:
    assert post_test_send(system, body).status_code == 422
    assert system.provider.stats()["received"] == 0


def test_a_clients_history_lists_all_messages(system: System) -> None:
    """Newest mailing first, page by page; also after the client was deleted."""
    system.add_clients(2, tag="history")
    ((client_id, phone), _) = system.query(
        "SELECT id, phone FROM clients WHERE tag = 'history' ORDER BY id"
    )
    system.provider.set(phones={phone: "error_500"})
    mailings = [system.create_mailing(filter={"tags": ["history"]}) for _ in range(3)]
    deadline = time.monotonic() + 15
    while len(list(system.provider.requests())) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    system.provider.set(phones={})
    for mailing_id in mailings:
        system.wait_finished(mailing_id)
    url = f"/clients/{client_id}/messages"
    page = system.call("GET", f"{url}?limit=2")
    MessagePage.model_validate(page)
    rest = system.call("GET", f"{url}?limit=2&cursor={page['next_cursor']}")
    messages = page["items"] + rest["items"]
    assert [m["mailing_id"] for m in messages] == mailings[::-1]
    assert rest["next_cursor"] is None
    details = system.call("GET", f"/messages/{messages[0]['id']}")
    MessageDetails.model_validate(details)
    outcomes = [attempt["outcome"] for attempt in details["attempt_log"]]
    assert outcomes == ["unavailable"] * (len(outcomes) - 1) + ["accepted"]
    assert len(outcomes) > 1
    assert details["attempt_log"][-1]["at"] == details["sent_at"]
    system.call("DELETE", f"/mailings/{mailings[1]}")
    system.call("DELETE", f"/clients/{client_id}")
    left = system.call("GET", url)["items"]
    assert [m["mailing_id"] for m in left] == mailings[::-1]  # what was sent stays provable
    system.call("GET", "/clients/999999/messages", expect=404)
