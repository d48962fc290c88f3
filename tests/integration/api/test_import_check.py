"""Checks of files before their import, and the mapping of their columns and time zones."""

import json
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.cli.clients import client_commands
from tests.integration.conftest import value
from worker.maintenance.imports import merge_import_slice
from worker.runtime.database import Database

FILE = (
    "Номер;code;Фамилия, имя;Часовой пояс\r\n"
    "8 (951) 000-00-01;916;Петров, Пётр;МСК+3\r\n"
    "8 (951) 000-00-02;495;Иванова, Анна;Москва\r\n"
    "8 (951) 000-00-02;495;Иванова, Анна;МСК\r\n"
    "12;495;Сидоров, Иван;мск +3\r\n"
).encode("cp1251")
MAPPING = {
    "columns": {"Номер": "phone", "code": "operator_code", "#3": "name"},
    "timezones": {"МСК+3": "Asia/Omsk"},
}
COUNTS = ("rows", "created", "updated", "unchanged", "rejected")


def check(client: FlaskClient, mapping: object = None, data: bytes = FILE) -> Any:
    query = f"?mapping={quote(json.dumps(mapping))}" if mapping is not None else ""
    return client.post(f"/api/v1/clients/import/check{query}", data=data, content_type="text/csv")


def test_check_tells_what_an_import_does(
    client: FlaskClient, db: Database, database: Cursor
) -> None:
    phone_only = {"columns": {"Номер": "phone"}}
    answer = check(client, phone_only)
    assert answer.status_code == 200, answer.text
    found = answer.get_json()
    assert [found[name] for name in COUNTS] == [4, 1, 0, 1, 2]
    assert [(each["column"], each["target"]) for each in found["columns"]] == [
        ("Номер", "phone"),
        ("code", "code"),
        ("Фамилия, имя", "Фамилия_имя"),
        ("Часовой пояс", "timezone"),
    ]
    assert found["columns"][3]["samples"] == ["МСК+3", "Москва", "МСК"]
    assert found["timezones"] == [{"value": "мск+3", "timezone": "Asia/Omsk", "rows": 2}]
    assert [(e["line"], e["column"], e["value"], e["code"]) for e in found["errors"]] == [
        (2, "timezone", "МСК+3", "timezone_offset"),
        (5, "phone", "12", "phone_format"),
        (5, "timezone", "мск +3", "timezone_offset"),
    ]
    # Nothing is left, and no client was created.
    database.execute(
        "SELECT (SELECT count(*) FROM imports WHERE status = 'receiving'),"
        " (SELECT count(*) FROM pg_class WHERE relname LIKE 'import_rows%%'),"
        " (SELECT count(*) FROM clients WHERE phone = 79510000002)"
    )
    assert database.fetchone() == (0, 0, 0)

    confirmed = check(client, MAPPING).get_json()
    assert [confirmed[name] for name in COUNTS] == [4, 2, 0, 1, 1]
    path = f"/api/v1/clients/import?mapping={quote(json.dumps(MAPPING))}"
    started = client.post(path, data=FILE, content_type="text/csv").get_json()
    while merge_import_slice(db, started["id"]):
        pass
    report = client.get(f"/api/v1/imports/{started['id']}").get_json()
    assert [report["rows_total"], *(report[name] for name in COUNTS[1:])] == [4, 2, 0, 1, 1]
    (made,) = client.get("/api/v1/clients?phone=79510000001").get_json()["items"]
    assert (made["operator_code"], made["timezone"], made["attributes"]) == (
        "916",
        "Asia/Omsk",
        {"name": "Петров, Пётр"},
    )
    # Now the clients exist: one row would change one of them.
    changed = FILE.replace("Анна".encode("cp1251"), "Яна".encode("cp1251"))
    again = check(client, MAPPING, changed).get_json()
    assert [again[name] for name in COUNTS] == [4, 0, 1, 2, 1]


def test_differing_rows_of_one_phone_are_counted_as_rejected(client: FlaskClient) -> None:
    data = b"phone,tag,timezone\n79510000009,a,UTC\n79510000009,b,UTC\n79510000009,b,UTC\n"
    found = check(client, data=data).get_json()
    assert [found[name] for name in COUNTS] == [3, 1, 0, 1, 1]


@pytest.mark.parametrize(
    "mapping",
    [
        [],
        {"column": {}},
        {"columns": []},
        {"columns": {"a": "1st"}},
        {"columns": {"a": 1}},
        {"timezones": {"МСК+3": "Omsk"}},
        {"timezones": {"МСК+3": None}},
    ],
    ids=str,
)
def test_malformed_mapping_is_rejected(client: FlaskClient, mapping: object) -> None:
    answer = check(client, mapping)
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["code"] == "mapping_format"


@pytest.mark.parametrize("columns", [{"Телефон": "phone"}, {"Номер": "phone", "code": "phone"}])
def test_mapping_that_does_not_fit_the_file_is_rejected(
    client: FlaskClient, columns: dict[str, str]
) -> None:
    answer = check(client, {"columns": columns})
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["code"] == "file_header"


def test_form_is_checked(client: FlaskClient) -> None:
    data = b"phone,timezone\n79510000010,UTC\n"
    answer = client.post(
        "/api/v1/clients/import/check", data={"file": (BytesIO(data), "clients.csv")}
    )
    assert answer.get_json()["created"] == 1


def test_command_checks_and_maps(app: Flask, tmp_path: Any, database: Cursor) -> None:
    path = tmp_path / "clients.csv"
    path.write_bytes(FILE.replace(b"(951)", b"(952)"))

    def run(*options: str) -> Any:
        return app.test_cli_runner().invoke(client_commands, ["import", *options, str(path)])

    assert run().exit_code == 1  # no phone column
    checked = run("--check", "--mapping", json.dumps({"columns": {"Номер": "phone"}}))
    assert checked.stdout == "4 rows: 1 new, 0 changed, 1 unchanged, 2 rejected\n"
    assert "code: code (916, 495)" in checked.stderr
    assert "timezone мск+3 (2 rows): Asia/Omsk, if --mapping confirms it" in checked.stderr
    database.execute("SELECT count(*) FROM clients WHERE phone::text LIKE '7952%'")
    assert value(database) == 0
    done = run("--mapping", json.dumps(MAPPING))
    assert "2 created, 0 updated, 1 unchanged, 1 rejected" in done.stdout
    assert run("--mapping", "{").exit_code == 2
