"""Opt-outs over the API: kept, listed, imported, exported, and heeded by launch and hand-off."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.opt_outs.schemas import OptOutImport, OptOutPage, OptOutsAdded
from shared.db.opt_outs import add_opt_outs
from shared.domain.statuses import Reason
from tests.support.fleet import Fleet, unavailable
from tests.support.invariants import assert_totals, find_wrong_totals

URL = "/api/v1/opt-outs"
Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def nobody_opted_out(database: Cursor) -> None:
    database.execute("DELETE FROM opt_outs")


@pytest.fixture(autouse=True)
def check_all_totals(fleet: Fleet) -> Iterator[None]:
    """Check the mailings of earlier tests as well."""
    yield
    assert_totals(find_wrong_totals(fleet.cursor))


def add(client: FlaskClient, *phones: int | str, source: str = "test") -> dict[str, int]:
    answer = client.post(URL, json={"phones": [str(phone) for phone in phones], "source": source})
    assert answer.status_code == 200, answer.text
    OptOutsAdded.model_validate(answer.get_json())
    counts: dict[str, int] = answer.get_json()
    return counts


def listed(client: FlaskClient, **query: object) -> list[str]:
    phones: list[str] = []
    while True:
        answer = client.get(URL, query_string=query)
        assert answer.status_code == 200, answer.text
        OptOutPage.model_validate(answer.get_json())
        phones += [item["phone"] for item in answer.get_json()["items"]]
        query["cursor"] = answer.get_json()["next_cursor"]
        if query["cursor"] is None:
            return phones


def phone_of(fleet: Fleet, client_id: int) -> int:
    return int(fleet.query_value("SELECT phone FROM clients WHERE id = %s", client_id))


def clients_of(fleet: Fleet, mailing_id: int) -> list[int]:
    found = fleet.query(
        "SELECT client_id FROM messages WHERE mailing_id = %s ORDER BY id", mailing_id
    )
    return [client_id for (client_id,) in found]


def test_phones_are_added_once_listed_and_removed(client: FlaskClient) -> None:
    assert add(client, 79990000003, 79990000001, 79990000003) == {
        "added": 2,
        "existing": 0,
        "messages_cancelled": 0,
    }
    assert add(client, 79990000001, 79990000002, source="again")["existing"] == 1
    assert listed(client, limit=1) == ["79990000001", "79990000002", "79990000003"]
    (item,) = client.get(URL, query_string={"phone": "79990000001"}).get_json()["items"]
    assert item["source"] == "test"
    assert client.delete(f"{URL}/79990000001").status_code == 204
    assert client.delete(f"{URL}/79990000001").status_code == 404
    assert listed(client) == ["79990000002", "79990000003"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"phones": []},
        {"phones": ["89990000001"]},
        {"phones": [79990000001]},
        {"phones": ["79990000001"] * 1001},
        {"phones": ["79990000001"], "source": ""},
        {"phones": ["79990000001"], "source": "a\nb"},
        {"phones": ["79990000001"], "more": 1},
    ],
)
def test_bad_input_is_refused(client: FlaskClient, body: dict[str, Any]) -> None:
    assert client.post(URL, json=body).status_code == 422
    assert listed(client) == []


def test_a_file_goes_in_and_comes_out_again(client: FlaskClient) -> None:
    file = "Телефон;Источник\r\n+7 (999) 000-00-01;письмо\r\nnobody;x\r\n8 999 000 00 02;\r\n"
    answer = client.post(
        f"{URL}/import?source=shop", data=file.encode("cp1251"), content_type="text/csv"
    )
    assert answer.status_code == 200, answer.text
    told = answer.get_json()
    OptOutImport.model_validate(told)
    assert (told["rows"], told["added"], told["rejected"]) == (3, 2, 1)
    assert told["faults"][0]["line"] == 3
    exported = client.get(f"{URL}.csv")
    assert exported.mimetype == "text/csv"
    lines = exported.text.split("\r\n")
    assert [line.split(",")[:2] for line in lines[:3]] == [
        ["phone", "source"],
        ["79990000001", "письмо"],
        ["79990000002", "shop"],
    ]
    again = client.post(f"{URL}/import", data=exported.data, content_type="text/csv").get_json()
    assert (again["added"], again["existing"]) == (0, 2)


def test_a_long_file_is_added_in_portions(client: FlaskClient, database: Cursor) -> None:
    rows = "".join(f"{79000000000 + n}\n" for n in range(2500))
    answer = client.post(f"{URL}/import", data="phone\n" + rows, content_type="text/csv")
    assert answer.get_json()["added"] == 2500
    database.execute("SELECT count(*) FROM opt_outs")
    assert database.fetchone() == (2500,)


@pytest.mark.parametrize(
    ("file", "content_type", "status"),
    [
        (b"name\n79990000001\n", "text/csv", 422),
        (b"", "text/csv", 422),
        (b"PK\x03\x04abc", "text/csv", 422),
        (b"phone\n79990000001\n", "application/json", 415),
        (b"phone\n" + b"79990000001\n" * 1_500_000, "text/csv", 413),
    ],
)
def test_an_unusable_file_is_refused(
    client: FlaskClient, file: bytes, content_type: str, status: int
) -> None:
    answer = client.post(f"{URL}/import", data=file, content_type=content_type)
    assert answer.status_code == status, answer.text


def test_who_has_opted_out_is_in_the_audience_and_cancelled_at_launch(
    client: FlaskClient, fleet: Fleet
) -> None:
    ids = fleet.add_clients(5, ("Europe/Moscow", "Asia/Omsk"), tag="launch")
    add(client, phone_of(fleet, ids[1]), phone_of(fleet, ids[4]))
    mailing_id = fleet.add_mailing(tags=["launch"])
    fleet.launch_mailing(mailing_id, batch_size=2)
    assert fleet.read_mailing(mailing_id)["audience"] == 5
    assert fleet.count_statuses(mailing_id) == {"pending": 3, "cancelled": 2}
    reasons = fleet.query(
        "SELECT client_id, reason FROM messages WHERE mailing_id = %s AND status = 'cancelled'"
        " ORDER BY 1",
        mailing_id,
    )
    assert reasons == [(ids[1], Reason.OPTED_OUT), (ids[4], Reason.OPTED_OUT)]


def test_when_all_have_opted_out_the_mailing_is_over(client: FlaskClient, fleet: Fleet) -> None:
    ids = fleet.add_clients(3, tag="nobody")
    add(client, *(phone_of(fleet, id_) for id_ in ids))
    mailing_id = fleet.add_mailing(tags=["nobody"], window_from="00:00", window_to="00:01")
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"cancelled": 3}
    assert fleet.settle_mailing(mailing_id) == "finished"


def test_adding_one_cancels_what_is_pending_at_once(client: FlaskClient, fleet: Fleet) -> None:
    mailings = [fleet.add_launched_mailing(3, batch_size=2) for _ in range(2)]
    opted = [clients_of(fleet, mailing_id)[0] for mailing_id in mailings]
    answer = add(client, *(phone_of(fleet, id_) for id_ in opted), 79990000009)
    assert answer == {"added": 3, "existing": 0, "messages_cancelled": 2}
    for mailing_id in mailings:
        assert fleet.count_statuses(mailing_id) == {"pending": 2, "cancelled": 1}


def test_one_added_after_the_launch_is_seen_at_hand_off(fleet: Fleet) -> None:
    """Where the launch of a chunk and the opting out do not see each other."""
    mailing_id = fleet.add_launched_mailing(3)
    first = clients_of(fleet, mailing_id)[0]
    fleet.query("INSERT INTO opt_outs (phone, source) VALUES (%s, 'x')", phone_of(fleet, first))
    worker = fleet.claim_batch(mailing_id)
    assert [row.opted_out for row in worker.claim.rows] == [True, False, False]


def test_a_retry_heeds_the_phone_that_it_would_repeat(fleet: Fleet) -> None:
    """The client has another phone now; the attempt that would be repeated went to the old one."""
    mailing_id = fleet.add_launched_mailing(2)
    first, second = clients_of(fleet, mailing_id)
    worker = fleet.claim_batch(mailing_id)
    old = {79990000000}  # what the attempts of the tests' workers were handed off to
    worker.finish(reports=[unavailable(id_) for id_ in worker.ids])
    with fleet.db.transaction() as cursor:
        added, cancelled = add_opt_outs(cursor, sorted(old), "test")
    assert (added, cancelled) == ([79990000000], 0)
    again = fleet.claim_batch(mailing_id)
    assert [row.opted_out for row in again.claim.rows] == [True, True]
    assert [row.client_id for row in again.claim.rows] == [first, second]
