"""Small requests with large effects: what is stored, reported and answered has bounds."""

import json
import time
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from shared.client_import.merge import MAX_KEPT_REJECTED, merge_chunk
from tests.integration.conftest import app as app
from tests.integration.conftest import client as client
from tests.integration.conftest import mailing_body, value

MANY = {f"k{n:05}": 1 for n in range(75_000)}
CLIENT = {"phone": "79161234567", "timezone": "Europe/Moscow"}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/mailings", mailing_body() | MANY, "extra_forbidden"),
        ("/mailings", MANY, "missing"),
        ("/mailings", mailing_body() | {"filter": MANY}, "extra_forbidden"),
        ("/mailings", mailing_body() | {"filter": {"attributes": MANY}}, "string_type"),
        ("/mailings", mailing_body() | {"filter": {"phones": ["1"] * 10_000}}, "phone_format"),
        ("/clients", CLIENT | {"attributes": MANY}, "string_type"),
        ("/clients", CLIENT | {"attributes": dict.fromkeys(MANY, "x")}, "too_long"),
        ("/clients", CLIENT | {"tag": ["\x00"] * 100_000}, "unstorable"),
    ],
    ids=["top", "only", "filter", "attributes", "phones", "client", "names", "unstorable"],
)
def test_the_first_hundred_errors_are_reported(
    client: FlaskClient, path: str, body: dict[str, Any], code: str
) -> None:
    started = time.monotonic()
    answer = client.post(f"/api/v1{path}", json=body)
    assert time.monotonic() - started < 3
    assert answer.status_code == 422
    errors = answer.get_json()["errors"]
    assert code in {error["code"] for error in errors}
    assert len(errors) <= 100
    assert len(answer.data) < 20_000
    if len(errors) == 100:
        assert int(answer.get_json()["detail"].split("(and ")[1].split()[0]) >= 9_900


def test_known_fields_among_thousands_of_others_are_not_called_missing(client: FlaskClient) -> None:
    answer = client.post("/api/v1/mailings", json=MANY | mailing_body())
    assert {error["code"] for error in answer.get_json()["errors"]} == {"extra_forbidden"}


@pytest.mark.parametrize("many", [[[]] * 150_000, [{"a": 1}] * 60_000], ids=["lists", "objects"])
def test_a_body_of_many_lists_or_objects_is_refused_before_it_is_parsed(
    client: FlaskClient, many: list[Any]
) -> None:
    """They took a quarter of a second each: four bodies of 600 kB a second occupied a process."""
    answer = client.post("/api/v1/mailings", json=mailing_body() | {"text": many})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "body_malformed")
    few = client.post("/api/v1/mailings", json=mailing_body() | {"text": many[:9_000]})
    assert (few.status_code, few.get_json()["errors"][0]["code"]) == (422, "string_type")


def import_file(client: FlaskClient, rows: str) -> dict[str, Any]:
    answer = client.post("/api/v1/clients/import", data=rows.encode(), content_type="text/csv")
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def test_rejected_rows_are_kept_up_to_a_limit_and_counted_beyond(
    client: FlaskClient, database: Cursor
) -> None:
    database.execute("SELECT pg_total_relation_size('rejected_rows')")
    before = value(database)
    made = import_file(client, "phone,timezone\n" + "x\n" * 100_000)
    assert (made["rejected"], made["rejected_kept"]) == (100_000, MAX_KEPT_REJECTED)
    database.execute("SELECT pg_total_relation_size('rejected_rows')")
    assert value(database) - before < 10_000_000
    lines = client.get(f"/api/v1/imports/{made['id']}/rejected.csv").text.splitlines()
    assert len(lines) == 1 + MAX_KEPT_REJECTED
    assert lines[-1].startswith(f"{MAX_KEPT_REJECTED + 1},x,")


def test_repeated_phones_are_kept_up_to_the_same_limit(
    client: FlaskClient, database: Cursor, database_url: str
) -> None:
    rows = "x\n" * (MAX_KEPT_REJECTED - 10) + "79160000001,Europe/Moscow\n" * 999
    rows += "79160000001,Asia/Omsk\n"
    made = import_file(client, "phone,timezone\n" + rows)
    connection = psycopg2.connect(database_url)
    busy = True
    while busy:
        with connection, connection.cursor() as cursor:
            busy = merge_chunk(cursor, made["id"]) is not None
    connection.close()
    found = client.get(f"/api/v1/imports/{made['id']}").get_json()
    assert (found["status"], found["created"]) == ("finished", 1)
    assert found["rejected"] == MAX_KEPT_REJECTED - 10 + 999
    database.execute("SELECT count(*) FROM rejected_rows WHERE import_id = %s", (made["id"],))
    assert value(database) == found["rejected_kept"] == MAX_KEPT_REJECTED


def test_an_export_has_a_limited_number_of_columns(client: FlaskClient, database: Cursor) -> None:
    attributes = [json.dumps({f"a{n}_{m}": "x" for m in range(20)}) for n in range(50)]
    database.execute(
        "INSERT INTO clients (phone, operator_code, tag, timezone, attributes) "
        "SELECT 79170000000 + n, 917, 'columns', 'Europe/Moscow', "
        "  each::jsonb || CASE WHEN n <= 2 THEN '{\"zz_frequent\": \"y\"}'::jsonb ELSE '{}' END "
        "FROM unnest(%s::text[]) WITH ORDINALITY AS given (each, n)",
        (attributes,),
    )
    header = client.get("/api/v1/clients.csv?tag=columns").text.splitlines()[0].split(",")
    assert len(header) == 7 + 200
    assert "zz_frequent" in header
