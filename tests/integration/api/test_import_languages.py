"""Errors of an import's rows are in the language that the reader asks for; codes stay the same."""

import csv
import io
import json
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.error_codes import ROW_CODES
from worker.maintenance.imports import merge_import_slice
from worker.runtime.database import Database

RUSSIAN = {"Accept-Language": "ru"}
ENGLISH = {"Accept-Language": "en"}
ZONE = "Europe/Moscow"
PHONE = "79890000001"
LONG = "x" * 201
CSV = f"""phone,operator_code,tag,timezone,note
916,9,{"x" * 65},Mars,
"7,9E+10",,,UTC+3,
7011234567.5,,,,{LONG}
916 123-45-67 доб. 12,,,{ZONE},
"79161234567, 79161234568",,,Moskow,
+380441234567,,,{ZONE},
"7916
1234567",,,{ZONE},
{PHONE},,a,{ZONE},
{PHONE},,b,{ZONE},
79161234567,,,{ZONE},,more
79161234567,,"a"b,{ZONE},
"""
LINES = [
    "[]",
    {"phone": 7, "tag": "\0", "vip": 1, "timezone": ZONE, "attributes": {"": "x", "note": 1}},
    {"phone": PHONE, "timezone": ZONE, "attributes": []},
    {"phone": PHONE, "timezone": ZONE, "attributes": {f"a{n}": "x" for n in range(21)}},
]
NDJSON = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in LINES)
KINDS = {"csv": (CSV, "text/csv"), "ndjson": (NDJSON, "application/x-ndjson")}


@pytest.fixture
def imports(client: FlaskClient, db: Database) -> list[str]:
    """The addresses of an import of each kind, merged."""
    addresses = []
    for body, content_type in KINDS.values():
        answer = client.post("/api/v1/clients/import", data=body, content_type=content_type)
        assert answer.status_code == 202, answer.text
        addresses.append(answer.headers["Location"])
        while merge_import_slice(db, answer.get_json()["id"]):
            pass
    return addresses


def details(client: FlaskClient, address: str, headers: dict[str, str]) -> list[dict[str, Any]]:
    answer = client.get(address, headers=headers)
    assert answer.headers["Content-Language"] == headers["Accept-Language"]
    assert answer.headers["Vary"] == "Accept-Language"
    errors: list[dict[str, Any]] = answer.get_json()["errors"]
    return errors


def test_errors_of_rows_are_in_the_language_that_the_request_accepts(
    client: FlaskClient, imports: list[str]
) -> None:
    codes, texts = set(), {}
    for address in imports:
        english, russian = (details(client, address, each) for each in (ENGLISH, RUSSIAN))
        for one, other in zip(english, russian, strict=True):
            assert re.fullmatch(r"row \d+: [^а-я]*(доб\. 12\"[^а-я]*)?", one["detail"]), one
            assert re.match(r"(?s)строка \d+: .*[а-я]", other["detail"]), other
            texts[one["line"], one["code"]] = other["detail"]
            assert one | {"detail": ""} == other | {"detail": ""}
            codes.add(one["code"])
    assert ROW_CODES.keys() - codes == {"client_deleted"}
    assert texts[2, "phone_format"] == (
        'строка 2: phone "916": нужно 11 цифр, первая — 7, например 79161234567'
    )
    assert texts[9, "repeated"] == (
        f'строка 9: phone "{PHONE}": этот телефон есть ещё раз в строке 10 с другими данными, '
        "учтена последняя строка"
    )


def test_the_file_of_rejected_rows_has_its_reasons_in_that_language(
    client: FlaskClient, imports: list[str]
) -> None:
    answer = client.get(f"{imports[0]}/rejected.csv", headers=RUSSIAN)
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert all(re.search("[а-я]", row["reason"]) for row in rows)
    assert rows[0]["reason"].startswith('phone "916": нужно 11 цифр')


def test_a_check_answers_in_that_language(client: FlaskClient) -> None:
    answer = client.post(
        "/api/v1/clients/import/check", data=CSV, content_type="text/csv", headers=RUSSIAN
    )
    assert answer.get_json()["errors"][0]["detail"].startswith('строка 2: phone "916": нужно')
    assert answer.headers["Content-Language"] == "ru"


def test_an_error_of_an_older_version_without_its_value_stays_english(
    client: FlaskClient, imports: list[str], database: Cursor
) -> None:
    import_id = imports[0].rpartition("/")[2]
    old = json.dumps([["phone", "phone has the extension 12", "phone_extension"]])
    database.execute(
        "UPDATE rejected_rows SET faults = %s WHERE import_id = %s AND line = 2", (old, import_id)
    )
    (first, *_) = details(client, imports[0], RUSSIAN)
    assert first["detail"] == 'строка 2: phone "916" has the extension 12'


def test_the_reason_of_a_failed_import_is_in_that_language(
    client: FlaskClient, db: Database, database: Cursor
) -> None:
    answer = client.post(
        "/api/v1/clients/import", data=f"phone,timezone\n{PHONE},{ZONE}\n", content_type="text/csv"
    )
    database.execute(f"DROP TABLE import_rows_{answer.get_json()['id']}")
    assert not merge_import_slice(db, answer.get_json()["id"])
    failed = client.get(answer.headers["Location"], headers=RUSSIAN).get_json()
    assert failed["failure"].startswith("Сервис не смог загрузить")
