"""Attributes, texts with placeholders and filters over the API: accepted or rejected."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.clients.schemas import ClientAnswer
from api.mailings.schemas import MailingAnswer
from tests.integration.conftest import ahead, mailing_body, value

CLIENTS, MAILINGS, PREVIEW = "/api/v1/clients", "/api/v1/mailings", "/api/v1/mailings/preview"
NewObject = Callable[..., dict[str, Any]]


def only_error(response: Any) -> dict[str, Any]:
    """Return the single field error of a 422 response."""
    assert response.status_code == 422, response.text
    (only,) = response.get_json()["errors"]
    found: dict[str, Any] = only
    return found


# --- attributes -----------------------------------------------------------------------------------


def test_attributes_are_stored_replaced_and_merged(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = new_client(attributes={"name": "Anna", "Город": "Омск"})
    ClientAnswer.model_validate(created)
    url = f"{CLIENTS}/{created['id']}"
    assert created["attributes"] == {"name": "Anna", "Город": "Омск"}
    changed = client.patch(url, json={"attributes": {"name": None, "points": "12"}}).get_json()
    assert changed["attributes"] == {"Город": "Омск", "points": "12"}
    assert client.get(url).get_json() == changed
    assert changed["updated_at"] > created["updated_at"]
    same = client.patch(url, json={"attributes": {"points": "12", "name": None}}).get_json()
    assert same == changed
    body = {"phone": created["phone"], "timezone": created["timezone"]}
    replaced = client.put(url, json={**body, "attributes": {"name": "Eva"}}).get_json()
    assert replaced["attributes"] == {"name": "Eva"}
    assert client.put(url, json=body).get_json()["attributes"] == {}


def test_attributes_are_erased_with_the_client(
    client: FlaskClient, new_client: NewObject, database: Cursor
) -> None:
    created = new_client(attributes={"name": "Anna"})
    assert client.delete(f"{CLIENTS}/{created['id']}").status_code == 204
    database.execute("SELECT attributes FROM clients WHERE id = %s", (created["id"],))
    assert value(database) == {}


@pytest.mark.parametrize(
    ("attributes", "pointer", "code"),
    [
        ({"phone": "1"}, "/attributes/phone", "attribute_name"),
        ({"first name": "x"}, "/attributes/first name", "attribute_name"),
        ({"1st": "x"}, "/attributes/1st", "attribute_name"),
        ({"n" * 33: "x"}, "/attributes/" + "n" * 33, "attribute_name"),
        ({"": "x"}, "/attributes/", "attribute_name"),
        ({"name": ""}, "/attributes/name", "string_too_short"),
        ({"name": "x" * 201}, "/attributes/name", "string_too_long"),
        ({"name": 5}, "/attributes/name", "string_type"),
        ({"name": "a\x00"}, "/attributes/name", "unstorable"),
        ({f"a{n}": "x" for n in range(21)}, "/attributes", "too_long"),
        ([], "/attributes", "dict_type"),
        (None, "/attributes", "dict_type"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_invalid_attributes_are_rejected(
    client: FlaskClient,
    new_client: NewObject,
    method: str,
    attributes: Any,
    pointer: str,
    code: str,
) -> None:
    before = new_client(attributes={"name": "Anna"})
    body = {"phone": "79990000000", "timezone": "Europe/Moscow", "attributes": attributes}
    url = CLIENTS if method == "POST" else f"{CLIENTS}/{before['id']}"
    found = only_error(client.open(url, method=method, json=body))
    assert (found["pointer"], found["code"]) == (pointer, code)
    assert client.get(f"{CLIENTS}/{before['id']}").get_json() == before


def test_merging_cannot_exceed_twenty_attributes(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = new_client(attributes={f"a{n}": "x" for n in range(20)})
    url = f"{CLIENTS}/{created['id']}"
    found = only_error(client.patch(url, json={"attributes": {"b": "x"}}))
    assert (found["pointer"], found["code"]) == ("/attributes", "too_many_attributes")
    swapped = client.patch(url, json={"attributes": {"b": "x", "a0": None}})
    assert len(swapped.get_json()["attributes"]) == 20


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [MAILINGS, PREVIEW])
@pytest.mark.parametrize(("text", "position"), [("Hi, {name", 5), ("100 % }", 7), ("{a b}", 1)])
def test_a_malformed_text_is_rejected_with_the_position_of_the_error(
    client: FlaskClient, url: str, text: str, position: int
) -> None:
    found = only_error(client.post(url, json={**mailing_body(), "text": text}))
    assert (found["pointer"], found["code"]) == ("/text", "placeholder")
    assert f"character {position}:" in found["detail"]
    assert text not in found["detail"]


def test_a_patch_with_a_malformed_text_changes_nothing(
    client: FlaskClient, new_mailing: NewObject
) -> None:
    created = new_mailing(text="{name|You}, hello {{:")
    url = f"{MAILINGS}/{created['id']}"
    assert only_error(client.patch(url, json={"text": "{"}))["pointer"] == "/text"
    assert client.get(url).get_json() == created
    assert client.patch(url, json={"text": "{name}"}).get_json()["text"] == "{name}"


# --- filters --------------------------------------------------------------------------------------


def test_a_filter_is_returned_as_given_without_duplicates(
    client: FlaskClient, new_mailing: NewObject
) -> None:
    earlier = new_mailing()["id"]
    filter_ = {
        "operator_codes": ["916"],
        "tags": ["vip"],
        "timezones": ["Europe/Moscow", "Asia/Omsk"],
        "attributes": {"city": "Омск"},
        "exclude_mailing_ids": [earlier],
        "phones": ["79161234567", "79161234568"],
    }
    created = new_mailing(filter={**filter_, "phones": [*filter_["phones"], "79161234567"]})
    MailingAnswer.model_validate(created)
    assert created["filter"] == filter_
    url = f"{MAILINGS}/{created['id']}"
    changed = client.patch(url, json={"filter": {"phones": ["79161234568"]}}).get_json()
    empty: dict[str, list[Any]] = {
        "operator_codes": [],
        "tags": [],
        "timezones": [],
        "exclude_mailing_ids": [],
    }
    assert changed["filter"] == {**empty, "attributes": {}, "phones": ["79161234568"]}


@pytest.mark.parametrize(
    ("filter_", "pointer"),
    [
        ({"timezones": ["Mars/Base"]}, "/filter/timezones/0"),
        ({"attributes": {"tag": "x"}}, "/filter/attributes/tag"),
        ({"exclude_mailing_ids": [0]}, "/filter/exclude_mailing_ids/0"),
        ({"exclude_mailing_ids": ["1"]}, "/filter/exclude_mailing_ids/0"),
        ({"exclude_mailing_ids": list(range(1, 22))}, "/filter/exclude_mailing_ids"),
        ({"phones": ["89161234567"]}, "/filter/phones/0"),
        ({"phones": ["79161234567"] * 10_001}, "/filter/phones"),
    ],
)
@pytest.mark.parametrize("url", [MAILINGS, PREVIEW])
def test_invalid_filters_are_rejected(
    client: FlaskClient, url: str, filter_: dict[str, Any], pointer: str
) -> None:
    response = client.post(url, json={**mailing_body(), "filter": filter_})
    assert only_error(response)["pointer"] == pointer


def test_unknown_ids_in_exclude_mailing_ids_are_rejected(
    client: FlaskClient, new_mailing: NewObject
) -> None:
    known, deleted = new_mailing()["id"], new_mailing()["id"]
    client.delete(f"{MAILINGS}/{deleted}")
    for unknown in (deleted, 2**63 - 1):
        filter_ = {"exclude_mailing_ids": [known, unknown]}
        for url in (MAILINGS, PREVIEW):
            found = only_error(client.post(url, json={**mailing_body(), "filter": filter_}))
            assert found["pointer"] == "/filter/exclude_mailing_ids/1"
        changed = client.patch(f"{MAILINGS}/{known}", json={"filter": filter_})
        assert only_error(changed)["pointer"] == "/filter/exclude_mailing_ids/1"


def test_a_filter_accepts_ten_thousand_phones(client: FlaskClient, new_mailing: NewObject) -> None:
    phones = [str(79250000000 + n) for n in range(10_000)]
    assert new_mailing(filter={"phones": phones})["filter"]["phones"] == phones


# --- preview --------------------------------------------------------------------------------------


def preview(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = client.post(PREVIEW, json={**mailing_body(), **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.get_json()
    return found


def test_preview_renders_texts_and_counts_missing_attributes(
    client: FlaskClient, new_client: NewObject
) -> None:
    created = [
        new_client(tag="rendered", attributes=attributes)
        for attributes in (
            {"name": "Anna", "city": "Omsk"},
            {"name": "Яна", "city": "Omsk"},
            {"name": "Eva" * 40, "city": "Omsk"},
            {"name": "Ida"},
            {"city": "Omsk"},
            {},
        )
    ]
    found = preview(client, text="Hello, {name} of {city}!", filter={"tags": ["rendered"]})
    assert (found["audience"], found["lacking"], found["opted_out"]) == (6, 3, 0)
    assert found["missing_attributes"] == [
        {"value": "city", "clients": 2},
        {"value": "name", "clients": 2},
    ]
    assert found["examples"] == [
        {"client_id": client["id"], "text": f"Hello, {client['attributes']['name']} of Omsk!"}
        for client in created[:3]
    ]
    longest = f"Hello, {'Eva' * 40} of Omsk!"
    assert found["text"] == {
        "length": len(longest),
        "encoding": "GSM-7",
        "units": len(longest),
        "segments": 1,
    }
    assert (found["segments_total"], found["segments_exact"]) == (3, True)
    assert [w["code"] for w in found["warnings"]] == ["missing_attributes"]
    # With a default no client lacks an attribute, and each text has its own number of segments.
    text = "{name|Anna}" + "!" * 67 + "{{"
    found = preview(client, text=text, filter={"tags": ["rendered"]})
    assert (found["lacking"], found["missing_attributes"], found["warnings"]) == (0, [], [])
    # "Яна" makes 71 units of UCS-2: two segments. "Eva" 40 times, and two-unit braces: 189 septets.
    assert found["segments_total"] == 1 + 2 + 2 + 1 + 1 + 1
    assert len(found["examples"]) == 5


def test_preview_warns_of_texts_that_are_too_long(
    client: FlaskClient, new_client: NewObject
) -> None:
    new_client(tag="too-long", attributes={"long": "x" * 200})
    new_client(tag="too-long", attributes={"long": "x"})
    found = preview(client, text="{long}" * 30, filter={"tags": ["too-long"]})
    assert found["segments_total"] == 1
    assert [w["code"] for w in found["warnings"]] == ["unfit_texts"]
    assert [len(e["text"]) for e in found["examples"]] == [30]


def test_preview_estimates_segments_from_a_sample_of_many_clients(
    client: FlaskClient, new_client: NewObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit of rendered texts the total is an estimate, and `segments_exact` is false."""
    monkeypatch.setattr("api.mailings.text_preview.SAMPLE_SIZE", 10)
    for n in range(30):
        new_client(tag="sampled", attributes={"name": "Anna" if n % 3 else "Яна" * 30})
    found = preview(client, text="{name}", filter={"tags": ["sampled"]})
    assert (found["audience"], found["segments_exact"]) == (30, False)
    assert 30 <= found["segments_total"] <= 60
    plain = preview(client, text="Hello", filter={"tags": ["sampled"]})
    assert (plain["segments_total"], plain["segments_exact"]) == (30, True)


def test_preview_excludes_clients_whose_window_never_opens(
    client: FlaskClient, new_client: NewObject
) -> None:
    new_client(tag="hours", attributes={"name": "Anna"}, timezone="UTC")
    new_client(tag="hours", attributes={"name": "Eva"}, timezone="Pacific/Kiritimati")
    start = ahead(hours=1)[11:13]
    window = {"from": f"{start}:00", "to": f"{(int(start) + 2) % 24:02}:00"}  # open in UTC
    found = preview(client, text="{name}", filter={"tags": ["hours"]}, window=window)
    assert (found["audience"], found["never_in_window"], found["segments_total"]) == (2, 1, 1)
