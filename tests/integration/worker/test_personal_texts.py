"""Personalised texts and narrower audiences through the real processes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.system import System
from tests.support.waiting import wait_for

PERSONAL = "{name|дорогой клиент}, {phone} {operator_code} <{tag}> {timezone} {{{city|?}}}"


@pytest.fixture
def quiet(system: System) -> Iterator[System]:
    """The system with a provider that was reset; the totals are checked afterwards."""
    system.provider.reset()
    yield system
    system.provider.reset()
    system.check_totals()


def add_client(system: System, phone: str, **fields: Any) -> dict[str, Any]:
    body = {"phone": phone, "timezone": "Europe/Moscow", **fields}
    made: dict[str, Any] = system.call("POST", "/clients", expect=201, json=body)
    return made


def received(system: System) -> list[tuple[str, str]]:
    """Return (phone, text) of each request that the provider received."""
    return [(str(row["phone"]), row["text"]) for row in system.provider.requests()]


def get_message(system: System, mailing_id: int, client_id: int) -> dict[str, Any]:
    """Return the message of a mailing to a client."""
    page = system.call("GET", f"/mailings/{mailing_id}/messages", params={"limit": 500})
    (id_,) = [m["id"] for m in page["items"] if m["client_id"] == client_id]
    found: dict[str, Any] = system.call("GET", f"/messages/{id_}")
    return found


def test_each_client_gets_a_personalised_text(quiet: System) -> None:
    add_client(quiet, "79170000001", tag="own", attributes={"name": "Анна", "city": "Омск {1}"})
    add_client(quiet, "79170000002", tag="own", attributes={"name": 'Q"\\'}, timezone="Asia/Omsk")
    add_client(quiet, "79170000003", tag="own", operator_code="999")
    mailing = quiet.create_mailing(text=PERSONAL, filter={"tags": ["own"]})
    assert quiet.wait_finished(mailing)["counts"]["sent"] == 3
    assert sorted(received(quiet)) == [
        ("79170000001", "Анна, 79170000001 917 <own> Europe/Moscow {Омск {1}}"),
        ("79170000002", 'Q"\\, 79170000002 917 <own> Asia/Omsk {?}'),
        ("79170000003", "дорогой клиент, 79170000003 999 <own> Europe/Moscow {?}"),
    ]


def test_doubled_braces_of_a_plain_text_are_sent_single(quiet: System) -> None:
    add_client(quiet, "79170000010", tag="braces")
    mailing = quiet.create_mailing(text="{{a}}", filter={"tags": ["braces"]})
    assert quiet.wait_finished(mailing)["counts"]["sent"] == 1
    assert received(quiet) == [("79170000010", "{a}")]


def test_a_client_without_a_required_attribute_is_sent_nothing(quiet: System) -> None:
    complete = add_client(
        quiet, "79170000020", tag="lack", attributes={"name": "Анна", "long": "-"}
    )
    lacking = add_client(quiet, "79170000021", tag="lack", attributes={"long": "-"})
    too_long = add_client(
        quiet, "79170000022", tag="lack", attributes={"name": "Eva", "long": "x" * 200}
    )
    body: dict[str, Any] = {"text": "Hello, {name}" + "{long}" * 20, "filter": {"tags": ["lack"]}}
    mailing = quiet.create_mailing(**body)
    assert quiet.wait_finished(mailing)["counts"] | {"sent": 1, "failed": 2} == {
        "pending": 0,
        "sent": 1,
        "failed": 2,
        "expired": 0,
        "cancelled": 0,
    }
    assert received(quiet) == [("79170000020", "Hello, Анна" + "-" * 20)]
    failed = get_message(quiet, mailing, lacking["id"])
    assert (failed["status"], failed["reason"]) == ("failed", "missing attribute: name")
    assert (failed["attempts"], failed["in_doubt"], failed["attempt_log"]) == (0, False, [])
    assert get_message(quiet, mailing, too_long["id"])["reason"].startswith("text too long: 4010 ")
    assert get_message(quiet, mailing, complete["id"])["attempts"] == 1
    # retry-failed sends only the message whose client was corrected.
    quiet.call("PATCH", f"/clients/{lacking['id']}", json={"attributes": {"name": "Ida"}})
    quiet.call("POST", f"/mailings/{mailing}/retry-failed")

    def is_retried() -> bool:
        counts = quiet.statistics(mailing)["counts"]
        return bool(counts["sent"] == 2 and counts["failed"] == 1)

    wait_for(is_retried, 20, "the corrected one to be sent")
    quiet.wait_finished(mailing)
    assert received(quiet)[1:] == [("79170000021", "Hello, Ida" + "-" * 20)]


def test_a_retry_repeats_the_first_attempts_text_and_phone(quiet: System) -> None:
    client = add_client(quiet, "79170000030", tag="retry", attributes={"name": "Анна"})
    quiet.provider.set(phones={79170000030: "error_503"})
    mailing = quiet.create_mailing(text="Hello, {name|you}!", filter={"tags": ["retry"]})
    wait_for(lambda: received(quiet), 10, "the first attempt")
    changes = {"phone": "79170000031", "attributes": {"name": None}}
    quiet.call("PATCH", f"/clients/{client['id']}", json=changes)
    quiet.provider.set(phones={})
    assert quiet.wait_finished(mailing)["counts"]["sent"] == 1
    attempts = received(quiet)
    assert len(attempts) >= 2
    assert set(attempts) == {("79170000030", "Hello, Анна!")}
    assert len({row["id"] for row in quiet.provider.requests()}) == 1


def test_changes_of_a_client_apply_until_the_first_attempt(quiet: System) -> None:
    clients = [
        add_client(quiet, f"7917000004{n}", tag="edit", attributes={"name": "before"})
        for n in range(6)
    ]
    mailing = quiet.create_mailing(text="{name}", filter={"tags": ["edit"]}, rate_limit=1)
    wait_for(lambda: received(quiet), 10, "the first to be sent")
    last = clients[-1]
    quiet.call("PATCH", f"/clients/{last['id']}", json={"attributes": {"name": "after"}})
    assert quiet.wait_finished(mailing)["counts"]["sent"] == 6
    texts = dict(received(quiet))
    assert texts.pop(last["phone"]) == "after"
    assert set(texts.values()) == {"before"}


def test_filters_narrow_the_audience(quiet: System) -> None:
    omsk = {"timezone": "Asia/Omsk", "attributes": {"city": "Омск", "name": "Анна"}}
    phones = {
        add_client(quiet, f"791700001{n:02}", tag="narrow", **(omsk if n % 3 == 0 else {}))[
            "phone"
        ]: n
        for n in range(12)
    }
    base = {"tags": ["narrow"]}

    def reached(**chosen: Any) -> set[str]:
        quiet.provider.clear_requests()
        mailing = quiet.create_mailing(filter={**base, **chosen})
        quiet.wait_finished(mailing)
        found = [phone for phone, _ in received(quiet)]
        assert len(found) == len(set(found)) == quiet.statistics(mailing)["audience"]
        last.append(mailing)
        return set(found)

    last: list[int] = []
    in_omsk = {phone for phone, n in phones.items() if n % 3 == 0}
    some = set(sorted(phones)[:5])
    assert reached(timezones=["Asia/Omsk"]) == in_omsk
    assert reached(attributes={"city": "Омск"}) == in_omsk
    assert reached(attributes={"city": "Омск", "name": "Ева"}) == set()
    assert reached(phones=[*some, "79999999999"]) == some
    # A client whose message was rejected is not excluded by `exclude_mailing_ids`.
    refused = sorted(phones)[-1]
    quiet.provider.set(phones={int(refused): "reject_400"})
    assert reached() == set(phones)
    quiet.provider.set(phones={})
    assert reached(exclude_mailing_ids=[last[-1]]) == {refused}
    assert reached(exclude_mailing_ids=last) == set()
