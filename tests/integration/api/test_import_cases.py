"""Files as people have them, over the API, in the admin UI, with the command: one parser."""

import codecs
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook  # type: ignore[import-untyped]
from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped]

from api.cli.clients import client_commands
from api.http.csv_upload import XLSX
from shared.client_import.columns import COLUMNS
from tests.integration.admin.test_forms import confirm, upload
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app
from tests.support.import_cases import HEADERS, PHONES, ROUND_TRIP, ZONES
from worker.maintenance.imports import merge_import_slice
from worker.runtime.database import Database

Report = dict[str, Any]
Import = Callable[..., Report]


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module", params=["api", "xlsx", "form", "page", "command"])
def run_import(
    request: pytest.FixtureRequest,
    app: Flask,
    client: FlaskClient,
    db: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Import:
    """Return a function that imports a file to its end and returns the report."""
    folder = tmp_path_factory.mktemp("files")

    def over_the_api(data: bytes) -> Report:
        path = "/api/v1/clients/import"
        if request.param == "xlsx":
            response = client.post(path, data=write_xlsx(data), content_type=XLSX)
        elif request.param == "form":
            file = (io.BytesIO(write_xlsx(data)), "clients.xlsx")
            response = client.post(path, data={"file": file})
        else:
            response = client.post(path, data=data, content_type="text/csv")
        assert response.status_code == 202, response.text
        while merge_import_slice(db, response.get_json()["id"]):
            pass
        return read_report(client, response.get_json()["id"])

    def on_the_page(data: bytes) -> Report:
        operator = Signed(app, "operator")
        response = upload(operator, data)
        assert response.status_code == 303, response.text
        response = confirm(operator, response)
        assert response.status_code == 303, response.text
        import_id = int(response.headers["Location"].rpartition("/")[2])
        while merge_import_slice(db, import_id):
            pass
        return read_report(client, import_id)

    def with_the_command(data: bytes) -> Report:
        path = Path(folder, "clients.csv")
        path.write_bytes(data)
        result = app.test_cli_runner().invoke(client_commands, ["import", str(path)])
        assert result.exit_code == 0, result.output
        number = result.output.rpartition("import ")[2].partition(":")[0]
        return read_report(client, int(number))

    ways = {"command": with_the_command, "page": on_the_page}
    return ways.get(request.param, over_the_api)


def read_report(client: FlaskClient, import_id: int) -> Report:
    report: Report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert report["status"] == "finished", report
    return report


def write_csv(*rows: object) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def write_xlsx(data: bytes) -> bytes:
    """Return the rows of a CSV file as a workbook, all cells as texts."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Clients")
    text = data.removeprefix(codecs.BOM_UTF8).decode()
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)):
        cells = [WriteOnlyCell(sheet, cell) for cell in row]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _delimiter(text: str) -> str:
    return max(",;", key=text.split("\n", 1)[0].count)


def find_client(client: FlaskClient, phone: str) -> dict[str, Any] | None:
    items = client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    return items[0] if items else None


def test_phones(client: FlaskClient, run_import: Import) -> None:
    report = run_import(
        write_csv(["Телефон", "zone"], *([raw, ""] for raw, _ in PHONES))
        .replace(b"zone", b"timezone")
        .replace(b",\r\n", b",UTC\r\n")
    )
    rejected = [(row, raw) for row, (raw, phone) in enumerate(PHONES, 2) if phone == "reject"]
    errors = [(e["line"], e["value"]) for e in report["errors"] if e["code"] != "repeated"]
    assert errors == [(row, raw.strip()) for row, raw in rejected]
    assert report["rejected"] == len(rejected)
    assert find_client(client, "79161234567") is not None
    for e in report["errors"]:
        assert e["detail"].startswith(f'row {e["line"]}: phone "{e["value"]}" ')
    details = " ".join(e["detail"] for e in report["errors"])
    for named in ("79161234567, 79161234568", "extension 12", "another country"):
        assert named in details


def test_headers(client: FlaskClient, run_import: Import) -> None:
    for header, target in HEADERS:
        rows = (["phone", header], ["79421110000", "916"])
        if target == "phone":
            rows = ([header, "x"], ["79421110000", "916"])
        if target == "timezone":
            rows = (["phone", header], ["79421110000", "UTC"])
        tail = b"" if target == "timezone" else b",UTC"
        head = b"" if target == "timezone" else b",timezone"
        first, second, _ = write_csv(*rows).split(b"\r\n")
        report = run_import(first + head + b"\r\n" + second + tail)
        assert report["rejected"] == 0, (header, report)
        expected = [] if target in COLUMNS else [target]
        assert [name for name in report["attribute_columns"] if name != "x"] == expected


def test_zones(client: FlaskClient, run_import: Import) -> None:
    rows = [[f"7943000{n:04}", raw] for n, (raw, *_) in enumerate(ZONES)]
    report = run_import(write_csv(["phone", "timezone"], *rows))
    errors = {e["line"]: e for e in report["errors"]}
    for n, (raw, zone, proposal) in enumerate(ZONES):
        found = find_client(client, f"7943000{n:04}")
        if zone:
            assert found is not None, raw
            assert found["timezone"] == zone
        else:
            assert found is None, raw
            assert errors[n + 2]["value"] == raw
            assert errors[n + 2]["code"] == ("timezone_offset" if proposal else "timezone_unknown")
            assert proposal in errors[n + 2]["detail"]
    assert "such as Asia/Baku, " in errors[len(ZONES) + 1]["detail"]


def test_export_is_taken_back_unchanged(client: FlaskClient, run_import: Import) -> None:
    before = [put_client(client, each) for each in ROUND_TRIP]
    for query in ("", "?excel=true"):
        exported = client.get(f"/api/v1/clients.csv{query}").get_data()
        report = run_import(exported)
        assert report["unchanged"] == report["rows_total"], report["errors"]
        assert [find_client(client, each["phone"]) for each in ROUND_TRIP] == before
        assert len(report["attribute_columns"]) >= 30


def test_export_restores_clients(client: FlaskClient, run_import: Import) -> None:
    """Nothing depends on the clients that exist."""
    before = [put_client(client, each) for each in ROUND_TRIP]
    exported = client.get("/api/v1/clients.csv").get_data()
    for each in ROUND_TRIP:
        changed = {"phone": each["phone"], "tag": "x", "timezone": "UTC", "attributes": {}}
        put_client(client, changed)
    run_import(exported)
    kept = ("phone", "operator_code", "tag", "timezone", "attributes")
    for each, old in zip(ROUND_TRIP, before, strict=True):
        found = find_client(client, each["phone"])
        assert found is not None
        assert {name: found[name] for name in kept} == {name: old[name] for name in kept}


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00") | st.sampled_from("=+-@;,\t\r\n\"' 1"),
    max_size=24,
)


@pytest.mark.parametrize("run_import", ["api"], indirect=True)
@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    clients=st.lists(
        st.fixed_dictionaries(
            {
                "tag": TEXTS,
                "timezone": st.sampled_from(["Europe/Moscow", "W-SU", "Europe/Kiev", "UTC"]),
                "attributes": st.dictionaries(
                    st.sampled_from(
                        ["id", "code", "line", "reason", "created_at", "имя", "_", "Tag"]
                    ),
                    TEXTS.filter(len),
                ),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_export_is_taken_back_unchanged(
    client: FlaskClient, run_import: Import, clients: list[dict[str, Any]]
) -> None:
    phones = [f"7944000{n:04}" for n in range(len(clients))]
    for phone, each in zip(phones, clients, strict=True):
        put_client(client, {"phone": phone, **each})
    exported = client.get("/api/v1/clients.csv").get_data()
    report = run_import(exported)
    for phone in phones:  # a workbook cannot hold all of their characters
        put_client(client, {"phone": phone, "timezone": "UTC"})
    assert report["unchanged"] == report["rows_total"], report["errors"]


def put_client(client: FlaskClient, given: dict[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in given.items() if name != "phone"}
    response = client.put(f"/api/v1/clients/by-phone/{given['phone']}", json=body)
    assert response.status_code in (200, 201), response.text
    found: dict[str, Any] = response.get_json()
    return found
