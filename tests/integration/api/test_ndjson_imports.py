"""Imports of NDJSON: the rules of CSV files, and a code for each rejected line."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.integration.conftest import make_app, make_client
from worker.maintenance.imports import merge_import_slice
from worker.runtime.database import Database

ZONE = {"timezone": "Europe/Moscow"}
NDJSON = "application/x-ndjson"
Import = Callable[..., dict[str, Any]]


@pytest.fixture
def run_import(client: FlaskClient, db: Database) -> Import:
    """Return a function that imports lines to the end and returns the report."""

    def upload_and_merge(*lines: object, query: str = "") -> dict[str, Any]:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        response = client.post(
            f"/api/v1/clients/import{query}", data="\n".join(texts), content_type=NDJSON
        )
        assert response.status_code == 202, response.text
        while merge_import_slice(db, response.get_json()["id"]):
            pass
        report: dict[str, Any] = client.get(response.headers["Location"]).get_json()
        assert report["status"] == "finished", report
        return report

    return upload_and_merge


def totals(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[name] for name in ("created", "updated", "unchanged", "rejected"))


def find_client(client: FlaskClient, phone: str) -> dict[str, Any]:
    (found,) = client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    return {name: found[name] for name in ("operator_code", "tag", "timezone", "attributes")}


def test_clients_are_created_and_updated(client: FlaskClient, run_import: Import) -> None:
    lines = [
        {"phone": f"7947000000{n}", "tag": "vip", **ZONE, "attributes": {"name": "Anna", "x": "1"}}
        for n in range(4)
    ]
    assert totals(run_import(*lines)) == (4, 0, 0, 0)
    assert find_client(client, "79470000003") == {
        "operator_code": "947",
        "tag": "vip",
        "timezone": "Europe/Moscow",
        "attributes": {"name": "Anna", "x": "1"},
    }
    changes: list[dict[str, Any]] = [
        {"phone": "79470000000", **ZONE},  # without a tag: it stays
        {"phone": "+7 (947) 000-00-01", "tag": "", **ZONE},  # an empty tag clears it
        {"phone": "79470000002", "operator_code": "916", "timezone": "asia/omsk"},
        {"phone": "79470000003", "tag": None, **ZONE, "attributes": {"name": "Eva", "x": ""}},
    ]
    assert totals(run_import(*changes, "", "  ")) == (0, 3, 1, 0)
    assert find_client(client, "79470000000")["tag"] == "vip"
    assert find_client(client, "79470000001")["tag"] == ""
    third = find_client(client, "79470000002")
    assert (third["operator_code"], third["timezone"]) == ("916", "Asia/Omsk")
    assert find_client(client, "79470000003")["attributes"] == {"name": "Eva", "x": "1"}


def test_values_for_lines_without_them(client: FlaskClient, run_import: Import) -> None:
    lines = [{"phone": f"7947100000{n}"} for n in range(3)]
    report = run_import(*lines, query="?tag=shop&timezone=Asia/Omsk")
    assert totals(report) == (3, 0, 0, 0)
    for n in range(3):
        found = find_client(client, f"7947100000{n}")
        assert (found["tag"], found["timezone"]) == ("shop", "Asia/Omsk")


REJECTED: list[tuple[object, str, str]] = [
    ("{", "", "not_an_object"),
    ("[1]", "", "not_an_object"),
    ({"phone": "916", **ZONE}, "phone", "phone_format"),
    (ZONE, "phone", "phone_format"),
    ({"phone": 79472000000, **ZONE}, "phone", "not_a_string"),
    ({"phone": "79472000000"}, "timezone", "timezone_missing"),
    ({"phone": "79472000000", "timezone": "Mars"}, "timezone", "timezone_unknown"),
    ({"phone": "79472000000", "tag": ["x"], **ZONE}, "tag", "not_a_string"),
    ({"phone": "79472000000", "tag": "a\x00b", **ZONE}, "tag", "nul"),
    ({"phone": "79472000000", "tag": "x" * 65, **ZONE}, "tag", "tag_length"),
    ({"phone": "79472000000", "colour": "red", **ZONE}, "colour", "unknown_field"),
    ({"phone": "79472000000", "\x00": "red", **ZONE}, "", "unknown_field"),
    ({"phone": "79472000000", "attributes": [], **ZONE}, "attributes", "not_an_object"),
    ({"phone": "79472000000", "attributes": {"a b": "x"}, **ZONE}, "attributes", "attribute_name"),
    ({"phone": "79472000000", "attributes": {"a": 1}, **ZONE}, "a", "not_a_string"),
    ({"phone": "79472000000", "attributes": {"a": "\x00"}, **ZONE}, "a", "nul"),
    ({"phone": "79472000000", "attributes": {"a": "x" * 201}, **ZONE}, "a", "value_length"),
    (
        {"phone": "79472000000", "attributes": {f"a{n}": "x" for n in range(21)}, **ZONE},
        "attributes",
        "too_many_attributes",
    ),
]


def test_invalid_lines_are_rejected_one_by_one_with_codes(
    client: FlaskClient, run_import: Import
) -> None:
    good: dict[str, Any] = {"phone": "79472999999", "attributes": {"a": "x"}, **ZONE}
    report = run_import(good, *(line for line, _, _ in REJECTED), {**good, "tag": "x"})
    assert report["rejected"] == len(REJECTED) + 1  # the first of the two with one phone
    codes = {(each["line"], each["column"]): each["code"] for each in report["errors"]}
    for at, (line, column, code) in enumerate(REJECTED, 2):
        assert codes.get((at, column)) == code, line
    rejected = client.get(f"/api/v1/imports/{report['id']}/rejected.csv")
    assert rejected.status_code == 200
    assert len(rejected.text.splitlines()) >= len(REJECTED)


def test_a_form_uploads_ndjson(client: FlaskClient) -> None:
    line = json.dumps({"phone": "79473000000", **ZONE}).encode()
    upload = {"file": (BytesIO(line), "clients.ndjson", NDJSON)}
    answer = client.post("/api/v1/clients/import", data=upload)
    assert answer.status_code == 202, answer.text
    assert (answer.get_json()["rows_total"], answer.get_json()["rejected"]) == (1, 0)


def test_a_file_that_is_unusable_changes_nothing(database_url: str, redis_url: str) -> None:
    small = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="100000"))
    line = json.dumps({"phone": "79473000001", **ZONE}).encode() + b"\n"
    for data, status, code in (
        (line * 3_000, 413, "too_large"),
        (b"x" * 90_000, 400, "file_unusable"),
    ):
        answer = small.post("/api/v1/clients/import", data=data, content_type=NDJSON)
        assert answer.status_code == status, answer.text
        assert answer.get_json()["code"] == code


def test_opt_outs_take_no_ndjson(client: FlaskClient) -> None:
    answer = client.post("/api/v1/opt-outs/import", data=b"{}", content_type=NDJSON)
    assert answer.status_code == 415
