"""Forms of the admin UI: submit once, keep every field, reject in the reader's language."""

import re
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from api.clients.import_undo import UNDOS
from api.http.csv_upload import UPLOADS
from shared.db import status_changes
from shared.domain.statuses import Reason
from shared.queues import Queues
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import (
    ahead,
    make_admin_app,
    make_client,
    make_pool_read_only,
    value,
)
from tests.support.fleet import Fleet
from worker.maintenance.imports import merge_import_slice, sweep_imports
from worker.runtime.database import Database

EVERY_FILTER = {
    "operator_codes": ["916", "926"],
    "tags": ["vip"],
    "timezones": ["Asia/Omsk"],
    "attributes": {"city": "Omsk", "name": "Anna"},
    "phones": ["79160000001", "79160000002"],
}


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url, IMPORT_MAX_BYTES="2000000")


@pytest.fixture
def operator(app: Flask) -> Signed:
    return Signed(app, "operator")


def submit(signed: Signed, path: str, fields: Any, **more: Any) -> TestResponse:
    data = {"csrf_token": signed.token, **fields}
    return signed.client.post(path, base_url=PUBLIC, data=data, **more)


def page(signed: Signed, path: str, language: str = "en") -> str:
    headers = {"Accept-Language": language}
    return signed.client.get(path, base_url=PUBLIC, headers=headers).text


def form_fields(html: str) -> dict[str, Any]:
    """Return the fields of the page's main form as a browser would send them."""
    form = html[html.index("data-preview") :]
    fields: dict[str, Any] = {}
    for tag, body in re.findall(r"<(input [^>]*|textarea [^>]*)>(?:([^<]*)</textarea>)?", form):
        found = re.search(r'name="([^"]+)"', tag)
        checked = "checked" in tag or ('type="checkbox"' not in tag and 'type="radio"' not in tag)
        if found and checked:
            shown = re.search(r'value="([^"]*)"', tag)
            fields.setdefault(found[1], []).append(shown[1] if shown else body)
    return {name: values for name, values in fields.items() if name != "csrf_token"}


@pytest.mark.parametrize("starts", ["now", "later"])
def test_a_mailing_confirmed_twice_is_created_once(
    operator: Signed, database: Cursor, starts: str
) -> None:
    fields = {
        "text": "Hello",
        "tags": "no-client",
        "starts": starts,
        "start_at": ahead(hours=1)[:16],
        "end_at": ahead(hours=2)[:16],
        "zone": "UTC",
    }
    review = submit(operator, "/admin/mailings/new", fields)
    assert review.status_code == 200
    found = re.search(r'name="once" value="([^"]+)"', review.text)
    assert found
    database.execute("SELECT count(*) FROM mailings")
    before = value(database)
    for _ in range(2):
        confirmed = {**fields, "confirmed": "yes", "once": found[1]}
        assert submit(operator, "/admin/mailings/new", confirmed).status_code == 303
    database.execute("SELECT count(*) FROM mailings")
    assert value(database) == before + 1


def test_the_mailing_form_keeps_every_filter(app: Flask, operator: Signed) -> None:
    """Renaming, copying and reviewing a mailing leaves its filter unchanged."""
    api = make_client(app)
    body = {"text": "Hello", "start_at": ahead(hours=1), "end_at": ahead(hours=2)}
    earlier = api.post("/api/v1/mailings", json=body).get_json()["id"]
    wanted = {**EVERY_FILTER, "exclude_mailing_ids": [earlier]}
    made = api.post("/api/v1/mailings", json=body | {"filter": wanted}).get_json()
    fields = form_fields(page(operator, f"/admin/mailings/{made['id']}/edit"))
    response = submit(operator, f"/admin/mailings/{made['id']}/edit", {**fields, "name": "Renamed"})
    assert response.status_code == 303, response.text
    changed = api.get(f"/api/v1/mailings/{made['id']}").get_json()
    assert changed["name"] == "Renamed"
    for kept in ("filter", "start_at", "end_at", "window", "text"):
        assert changed[kept] == made[kept]
    copied = form_fields(page(operator, f"/admin/mailings/new?from={made['id']}"))
    review = submit(operator, "/admin/mailings/new", copied | {"text": "Hello again"})
    assert review.status_code == 200
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', review.text))
    del hidden["csrf_token"]
    response = submit(operator, "/admin/mailings/new", {**hidden, "confirmed": "yes"})
    copy = api.get(f"/api/v1/mailings/{response.headers['Location'].rsplit('/', 1)[1]}").get_json()
    assert copy["filter"] == made["filter"]


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("attributes", "city Omsk", "name = value"),
        ("attributes", "phone = 1", "name = value"),
        ("phones", "79160000001, seven", "seven: A phone has 11 digits"),
        ("exclude_mailing_ids", "999999", "There is no mailing of this number."),
        ("exclude_mailing_ids", "first", "Enter a whole number."),
        ("timezones", "Moon/Base", "Choose a time zone from the list"),
        ("text", "Hello {name", "The brace at character 7"),
        ("rate_limit", "many", "Enter a whole number."),
    ],
)
def test_an_error_is_shown_at_its_field(
    operator: Signed, field: str, given: str, message: str
) -> None:
    fields = {"text": "Hello", "starts": "now", "end_at": ahead(hours=2)[:16], "zone": "UTC"}
    response = submit(operator, "/admin/mailings/new", {**fields, field: given})
    assert response.status_code == 422
    at = response.text.index(f'id="{field}-fault"')
    assert message in response.text[at : at + 300]
    assert given in response.text, "the submitted value is kept"


def upload(signed: Signed, content: bytes, language: str = "ru") -> TestResponse:
    file = (BytesIO(content), "clients.csv")
    return submit(
        signed,
        "/admin/clients/import",
        {"file": file, "timezone": "Europe/Moscow"},
        content_type="multipart/form-data",
        headers={"Accept-Language": language},
    )


def confirm(signed: Signed, response: TestResponse, **changes: str) -> TestResponse:
    """Submit the page of a checked file as it is, but for these fields."""
    path = response.headers["Location"]
    html = page(signed, path)
    fields = dict(re.findall(r'name="((?:name|zone)-\d+|draft)"[^>]* value="([^"]*)"', html))
    for name, options in re.findall(
        r'<select [^>]*name="(target-\d+)"[^>]*>(.*?)</select>', html, re.S
    ):
        fields[name] = re.findall(r'value="([^"]*)" selected', options)[0]
    return submit(signed, path, {"step": "import", **fields, **changes})


def test_a_form_imports_a_file_and_its_report_is_in_russian(operator: Signed) -> None:
    rows = (
        *("phone,operator_code,tag,timezone,city", "79160000001,,,,", '"7,9E+10"', "8 926 1,,,,"),
        *("79160000003,12,,,", f"79160000004,,{'x' * 65},,", "79160000005,,,Moon/Base,"),
        *(f"79160000006,,,,{'y' * 201}", "79160000007,,,,a,more", '79160000008,"x"y,,,'),
    )
    response = confirm(operator, upload(operator, "\n".join(rows).encode()))
    assert response.status_code == 303
    report = page(operator, response.headers["Location"], "ru")
    table = report[report.index("<table") : report.index("</table>")]
    messages = re.findall(r"<td>([^<]+)</td></tr>", table)
    assert len(messages) == 8
    for each in messages:
        assert re.search(r"[а-я]{4}", each), each
        assert not re.search(r"\b(must|phone|timezone|missing)\b", each), each
    exported = page(operator, f"{response.headers['Location']}/rejected.csv", "ru")
    assert "В телефоне должно быть 11 цифр" in exported


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Файл пуст"),
        (b"PK\x03\x04 workbook", "Это не книга Excel"),
        (b"%PDF-1.4", "Это не CSV-файл"),
        (b'phone\n"7' + b"\n1" * 300, "кавычка открыта"),
        ("phone,tag\n1,друг\n".encode() + b"2,\xff\xfe\n", "не в UTF-8"),
        (b"phone\n" + b"1" * 70_000, "слишком длинная"),
        (b"phone\n" + b"79160000001\n" * 170_000, "больше"),
    ],
)
def test_an_unusable_file_is_rejected_in_russian(
    operator: Signed, database: Cursor, content: bytes, message: str
) -> None:
    response = upload(operator, content)
    assert response.status_code == 422
    shown = re.search(r'id="upload-problem".*?<p>(.*?)</p>', response.text, re.S)
    assert shown
    assert message in shown[1], shown[1]
    # The page's script receives the same message.
    scripted = operator.client.post(
        "/admin/clients/import",
        base_url=PUBLIC,
        data=content,
        headers={
            "Content-Type": "text/csv",
            "X-CSRFToken": operator.token,
            "Accept-Language": "ru",
        },
    )
    assert message in scripted.get_json()["problem"]
    database.execute("SELECT count(*) FROM imports WHERE status <> 'running'")
    assert value(database) == 0


MAPPED = (
    "Номер;code;Моб. телефон;Пояс\r\n"
    "1;А-1;8 (953) 000-00-01;МСК+3\r\n"
    "2;А-2;8 (953) 000-00-02;Москва\r\n"
    "3;А-3;12;Москва\r\n"
).encode("utf-16")


def test_a_file_is_mapped_and_checked_before_its_import(operator: Signed, database: Cursor) -> None:
    uploaded = upload(operator, MAPPED)
    path = uploaded.headers["Location"]
    assert re.fullmatch(r"/admin/clients/import/\d+", path)
    html = page(operator, path, "ru")
    for shown in ("Моб. телефон", "8 (953) 000-00-01", "А-1, А-2, А-3", "Что произойдёт"):
        assert shown in html
    # The column of zones is mapped; then offsets wait for a confirmation.
    checked = confirm(operator, uploaded, **{"target-3": "timezone", "target-0": "ignore"})
    assert checked.headers["Location"] == f"{path}#result"
    database.execute("SELECT count(*) FROM clients WHERE phone::text LIKE '7953%'")
    assert value(database) == 0, "a changed mapping is checked, not imported"
    html = page(operator, path)
    assert "МСК+3 means this zone" in html
    assert 'value="Asia/Omsk"' in html
    assert re.findall(r"<dd>(\d+)</dd>", html) == ["1", "0", "0", "2"]
    confirm(operator, uploaded, **{"confirm-0": "on"})
    html = page(operator, path)
    assert re.findall(r"<dd>(\d+)</dd>", html) == ["2", "0", "0", "1"]
    done = confirm(operator, uploaded, **{"confirm-0": "on"})
    assert re.fullmatch(r"/admin/imports/\d+", done.headers["Location"])
    database.execute(
        "SELECT rows_total, rejected, attribute_columns, ignored_columns FROM imports"
        " ORDER BY id DESC LIMIT 1"
    )
    assert database.fetchone() == (3, 1, ["code"], ["Номер"])
    database.execute("SELECT count(*) FROM import_file_parts")
    assert value(database) == 0
    assert operator.client.get(path, base_url=PUBLIC).status_code == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target-0": "phone"}, "Two columns cannot be the same"),
        ({"target-2": "ignore"}, "Choose the column with the phones"),
        ({"name-1": "1st"}, "The name of an attribute has"),
    ],
)
def test_a_mapping_that_cannot_be_is_explained(
    operator: Signed, changes: dict[str, str], message: str
) -> None:
    response = confirm(operator, upload(operator, MAPPED), **changes)
    assert response.status_code == 422
    assert message in response.text


def test_an_erasure_applies_to_a_file_that_was_uploaded_before(
    app: Flask, operator: Signed, database: Cursor, database_url: str, redis_url: str
) -> None:
    api = make_client(app)
    made = api.post("/api/v1/clients", json={"phone": "79540000001", "timezone": "UTC"})
    uploaded = upload(operator, b"phone\n79540000001\n79540000002\n")
    assert api.delete(f"/api/v1/clients/{made.get_json()['id']}").status_code == 204
    # The file is checked again after the deletion, and imported then.
    confirm(operator, uploaded, step="check")
    done = confirm(operator, uploaded)
    db = Database(database_url, "test")
    while merge_import_slice(db, int(done.headers["Location"].rpartition("/")[2])):
        pass
    database.execute("SELECT phone FROM clients WHERE phone::text LIKE '7954%'")
    assert database.fetchall() == [(79540000002,)]
    # A file that is not imported is deleted after an hour.
    upload(operator, MAPPED)
    database.execute("UPDATE import_files SET created_at = now() - interval '61 minutes'")
    sweep_imports(db, Queues.connect(redis_url))
    db.close()
    database.execute("SELECT count(*) FROM import_files")
    assert value(database) == 0


@pytest.mark.parametrize("content", [b"name,tag\nAnna,vip\n", b"phone,tel\n1,2\n"])
def test_a_file_whose_header_is_not_enough_is_mapped(operator: Signed, content: bytes) -> None:
    response = upload(operator, content)
    assert response.status_code == 303
    assert "Check the file" in page(operator, response.headers["Location"])


def test_files_beyond_the_bound_are_refused_and_can_be_sent_again(operator: Signed) -> None:
    uploaded = upload(operator, MAPPED)
    leaves = [UPLOADS.admit(f"other {n}") for n in range(UPLOADS.per_process)]
    try:
        refused = upload(operator, MAPPED)
        unchecked = confirm(operator, uploaded, **{"target-0": "ignore"})
    finally:
        for leave in leaves:
            leave()
    assert (refused.status_code, unchecked.status_code) == (429, 429)
    assert "Сейчас загружается слишком много файлов." in refused.text
    assert "Too many files are being read at this moment." in unchecked.text
    assert confirm(operator, uploaded, **{"target-0": "ignore"}).status_code == 303


def test_undos_beyond_the_bound_are_refused_on_the_page_of_the_import(operator: Signed) -> None:
    uploaded = upload(operator, b"phone,timezone\n79530000009,UTC\n")
    path = confirm(operator, uploaded).headers["Location"]
    assert re.fullmatch(r"/admin/imports/\d+", path)
    leaves = [UNDOS.admit(f"other {n}") for n in range(UNDOS.per_process)]
    try:
        refused = submit(operator, path, {}, headers={"Accept-Language": "ru"})
    finally:
        for leave in leaves:
            leave()
    assert refused.status_code == 429
    assert "Сейчас выполняется слишком много других операций." in refused.text


def test_a_form_without_a_file_is_rejected(operator: Signed) -> None:
    response = submit(operator, "/admin/clients/import", {}, content_type="multipart/form-data")
    assert response.status_code == 422
    assert "Choose a file first." in response.text


def test_the_export_of_clients_uses_the_search_of_the_list(app: Flask, operator: Signed) -> None:
    body = {"phone": "79169990001", "tag": "exported", "timezone": "UTC"}
    assert make_client(app).post("/api/v1/clients", json=body).status_code == 201
    for query in ("phone=8+916+999-00-01", "tag=exported"):
        exported = page(operator, f"/admin/clients.csv?{query}")
        assert len(exported.splitlines()) == 2
        assert "79169990001" in exported
    for query in ("q=999-00-01", "q=expor"):
        assert page(operator, f"/admin/clients.csv?{query}") == exported


def test_a_read_only_server_is_an_outage(app: Flask, operator: Signed) -> None:
    """A connection that was opened before a failover may lead to a standby."""
    make_pool_read_only(app)
    fields = {"phones": "79160000009"}
    answer = submit(operator, "/admin/opt-outs", fields)
    assert answer.status_code == 503, answer.text
    assert "The database cannot be reached" in answer.text
    assert submit(operator, "/admin/opt-outs", fields).status_code == 303


def test_the_preview_of_a_started_mailing_counts_those_it_has_not_sent_to(
    operator: Signed, fleet: Fleet
) -> None:
    mailing_id = fleet.add_launched_mailing(3, text="Hello")
    worker = fleet.claim_batch(mailing_id)
    worker.record(accepted=worker.ids[:1])
    html = page(operator, f"/admin/mailings/{mailing_id}/edit")
    fields = form_fields(html)
    shown = submit(operator, "/admin/mailings/preview", fields).text
    assert '<span class="big">2</span><span>more clients will get it' in shown
    fields["text"] = ["{name} needs a name"]
    shown = submit(operator, "/admin/mailings/preview", fields).text
    assert '<span class="big">0</span>' in shown
    assert "a value that the text needs is missing" in shown


def test_opted_out_recipients_have_their_own_line_and_list(operator: Signed, fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(3)
    for nth, reason in ((0, "opted out"), (1, "mailing cancelled")):
        status_changes.cancel_messages(
            fleet.cursor,
            fleet.query(
                "SELECT mailing_id, batch_id, id FROM messages WHERE mailing_id = %s"
                " ORDER BY id OFFSET %s LIMIT 1",
                mailing_id,
                nth,
            ),
            Reason(reason),
        )
    shown = page(operator, f"/admin/mailings/{mailing_id}")
    assert "data-part-opted_out>1<" in shown
    assert "data-part-cancelled>1<" in shown
    for tab in ("opted_out", "cancelled"):
        path = f"/admin/mailings/{mailing_id}?status={tab}"
        assert page(operator, path).count('<span class="state') == 2  # with that of the mailing
        csv = page(operator, f"/admin/mailings/{mailing_id}/messages.csv?status={tab}")
        assert len(csv.splitlines()) == 2, csv
