"""Opt-outs over the API: add, list, import and export them; launch and dispatch respect them."""

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
def no_opt_outs(database: Cursor) -> None:
    database.execute("DELETE FROM opt_outs")


@pytest.fixture(autouse=True)
def check_all_totals(fleet: Fleet) -> Iterator[None]:
    """Check the mailings of earlier tests as well."""
    yield
    assert_totals(find_wrong_totals(fleet.cursor))


def add_opt_outs_over_api(
    client: FlaskClient, *phones: int | str, source: str = "test"
) -> dict[str, int]:
    response = client.post(URL, json={"phones": [str(phone) for phone in phones], "source": source})
    assert response.status_code == 200, response.text
    OptOutsAdded.model_validate(response.get_json())
    counts: dict[str, int] = response.get_json()
    return counts


def list_phones(client: FlaskClient, **query: object) -> list[str]:
    phones: list[str] = []
    while True:
        response = client.get(URL, query_string=query)
        assert response.status_code == 200, response.text
        OptOutPage.model_validate(response.get_json())
        phones += [item["phone"] for item in response.get_json()["items"]]
        query["cursor"] = response.get_json()["next_cursor"]
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
    assert add_opt_outs_over_api(client, 79990000003, 79990000001, 79990000003) == {
        "added": 2,
        "existing": 0,
        "messages_cancelled": 0,
    }
    assert add_opt_outs_over_api(client, 79990000001, 79990000002, source="again")["existing"] == 1
    assert list_phones(client, limit=1) == ["79990000001", "79990000002", "79990000003"]
    (item,) = client.get(URL, query_string={"phone": "79990000001"}).get_json()["items"]
    assert item["source"] == "test"
    assert client.delete(f"{URL}/79990000001").status_code == 204
    assert client.delete(f"{URL}/79990000001").status_code == 404
    assert list_phones(client) == ["79990000002", "79990000003"]


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
def test_invalid_input_is_rejected(client: FlaskClient, body: dict[str, Any]) -> None:
    assert client.post(URL, json=body).status_code == 422
    assert list_phones(client) == []


def test_an_exported_file_can_be_imported_again(client: FlaskClient) -> None:
    file = "Телефон;Источник\r\n+7 (999) 000-00-01;письмо\r\ninvalid;x\r\n8 999 000 00 02;\r\n"
    response = client.post(
        f"{URL}/import?source=shop", data=file.encode("cp1251"), content_type="text/csv"
    )
    assert response.status_code == 200, response.text
    result = response.get_json()
    OptOutImport.model_validate(result)
    assert (result["rows"], result["added"], result["rejected"]) == (3, 2, 1)
    assert result["faults"][0]["line"] == 3
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


def test_a_long_file_is_added_in_chunks(client: FlaskClient, database: Cursor) -> None:
    rows = "".join(f"{79000000000 + n}\n" for n in range(2500))
    response = client.post(f"{URL}/import", data="phone\n" + rows, content_type="text/csv")
    assert response.get_json()["added"] == 2500
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
def test_an_unusable_file_is_rejected(
    client: FlaskClient, file: bytes, content_type: str, status: int
) -> None:
    response = client.post(f"{URL}/import", data=file, content_type=content_type)
    assert response.status_code == status, response.text


def test_opted_out_clients_are_in_the_audience_and_cancelled_at_launch(
    client: FlaskClient, fleet: Fleet
) -> None:
    ids = fleet.add_clients(5, ("Europe/Moscow", "Asia/Omsk"), tag="launch")
    add_opt_outs_over_api(client, phone_of(fleet, ids[1]), phone_of(fleet, ids[4]))
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


def test_a_mailing_finishes_when_all_its_clients_have_opted_out(
    client: FlaskClient, fleet: Fleet
) -> None:
    ids = fleet.add_clients(3, tag="opted-out")
    add_opt_outs_over_api(client, *(phone_of(fleet, id_) for id_ in ids))
    mailing_id = fleet.add_mailing(tags=["opted-out"], window_from="00:00", window_to="00:01")
    fleet.launch_mailing(mailing_id)
    assert fleet.count_statuses(mailing_id) == {"cancelled": 3}
    assert fleet.settle_mailing(mailing_id) == "finished"


def test_adding_an_opt_out_cancels_pending_messages_immediately(
    client: FlaskClient, fleet: Fleet
) -> None:
    mailings = [fleet.add_launched_mailing(3, batch_size=2) for _ in range(2)]
    opted = [clients_of(fleet, mailing_id)[0] for mailing_id in mailings]
    response = add_opt_outs_over_api(client, *(phone_of(fleet, id_) for id_ in opted), 79990000009)
    assert response == {"added": 3, "existing": 0, "messages_cancelled": 2}
    for mailing_id in mailings:
        assert fleet.count_statuses(mailing_id) == {"pending": 2, "cancelled": 1}


def test_an_opt_out_added_after_launch_is_seen_at_dispatch(fleet: Fleet) -> None:
    """As when the transactions of a chunk's launch and of an opt-out do not see each other."""
    mailing_id = fleet.add_launched_mailing(3)
    first = clients_of(fleet, mailing_id)[0]
    fleet.query("INSERT INTO opt_outs (phone, source) VALUES (%s, 'x')", phone_of(fleet, first))
    worker = fleet.claim_batch(mailing_id)
    assert [row.opted_out for row in worker.claim.rows] == [True, False, False]


def test_a_retry_respects_an_opt_out_of_the_phone_of_the_first_attempt(fleet: Fleet) -> None:
    """The client has another phone now, but the retry would repeat the first attempt exactly."""
    mailing_id = fleet.add_launched_mailing(2)
    first, second = clients_of(fleet, mailing_id)
    worker = fleet.claim_batch(mailing_id)
    old = {79990000000}  # the phone of all attempts in tests
    worker.finish(reports=[unavailable(id_) for id_ in worker.ids])
    with fleet.db.transaction() as cursor:
        added = add_opt_outs(cursor, sorted(old), "test")
    assert (added.owners, added.messages_cancelled) == ({79990000000: None}, 0)
    again = fleet.claim_batch(mailing_id)
    assert [row.opted_out for row in again.claim.rows] == [True, True]
    assert [row.client_id for row in again.claim.rows] == [first, second]
