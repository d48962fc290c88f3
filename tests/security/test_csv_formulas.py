"""Files for spreadsheets: no cell of an export is a formula in any locale, and none is changed."""

import csv
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from shared.client_import.merge import merge_chunk
from tests.integration import conftest as integration
from worker.runtime.database import Database

app, client = integration.app, integration.client

EXECUTED = re.compile(r"[\s\"]*[=+\-@＝＋－＠]")
TEXTS = [
    "=1+1",
    "a;=1,=2",
    "a,=cmd|' /C calc'!A0&\"",
    "'=1",
    "''=1",
    "x; -1",
    'x;"=HYPERLINK(""http://evil.example"")"',
    "＝1",
    "5-7; 9",
    "plain",
]


@pytest.fixture
def worker(database_url: str) -> Iterator[Database]:
    db = Database(database_url, "test-csv")
    yield db
    db.close()


def import_file(client: FlaskClient, worker: Database, content: bytes) -> dict[str, Any]:
    """Import a file of clients and merge it; return its report."""
    answer = client.post("/api/v1/clients/import", data=content, content_type="text/csv")
    assert answer.status_code == 202, answer.text
    address = answer.headers["Location"]
    for _ in range(10):
        with worker.transaction() as cursor:
            if merge_chunk(cursor, answer.get_json()["id"]) is None:
                break
    report: dict[str, Any] = client.get(address).get_json()
    assert report["status"] == "finished"
    return report


def cells_in_every_locale(content: str) -> Iterator[str]:
    for separator in ",;\t":
        for row in csv.reader(StringIO(content, newline=""), delimiter=separator):
            yield from row
        yield from re.split(rf"[{separator}\r\n]", content)


@pytest.mark.parametrize("excel", ["", "?excel=true"])
def test_an_export_has_no_formulas_and_imports_unchanged(
    client: FlaskClient, worker: Database, excel: str
) -> None:
    start = 79161110000 if excel else 79161120000
    for number, text in enumerate(TEXTS):
        body = {
            "phone": str(start + number),
            "timezone": "Europe/Moscow",
            "tag": text[:64],
            "attributes": {"note": text, "both": f"{text};{text}"},
        }
        assert client.post("/api/v1/clients", json=body).status_code == 201
    before = client.get("/api/v1/clients?limit=100").get_json()["items"]
    exported = client.get(f"/api/v1/clients.csv{excel}").data
    for cell in cells_in_every_locale(exported.decode("utf-8-sig")):
        assert not EXECUTED.match(cell), cell
    report = import_file(client, worker, exported)
    assert (report["rejected"], report["unchanged"]) == (0, len(before))
    assert client.get("/api/v1/clients?limit=100").get_json()["items"] == before


def test_rejected_rows_have_no_formulas(client: FlaskClient, worker: Database) -> None:
    rows = StringIO()
    writer = csv.writer(rows)
    writer.writerow(["phone", "tag", "timezone", "note"])
    writer.writerows([[text, text, "nowhere", text] for text in TEXTS])
    report = import_file(client, worker, rows.getvalue().encode())
    assert report["rejected"] == len(TEXTS)
    for excel in ("", "?excel=true"):
        address = f"/api/v1/imports/{report['id']}/rejected.csv{excel}"
        for cell in cells_in_every_locale(client.get(address).data.decode("utf-8-sig")):
            assert not EXECUTED.match(cell), cell
