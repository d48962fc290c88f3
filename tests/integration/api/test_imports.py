"""Imports: upload a file over the API, merge it as a worker does, check the report."""

import csv
import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from redis import Redis
from werkzeug.test import TestResponse

from shared.client_import.merge import merge_chunk
from shared.queues import Queues
from tests.integration.conftest import make_app, make_client, value
from tests.support.fleet import Fleet
from tests.support.waiting import wait_for
from worker.maintenance.imports import merge_import_slice, sweep_imports
from worker.runtime.database import Database

HEADER = "phone,operator_code,tag,timezone\n"


@pytest.fixture
def new_phone(phones: Iterator[str]) -> Callable[[], str]:
    """Return a function that returns an unused phone."""
    return lambda: next(phones)


def upload(client: FlaskClient, data: str | bytes, query: str = "") -> TestResponse:
    body = data.encode() if isinstance(data, str) else data
    return client.post(f"/api/v1/clients/import{query}", data=body, content_type="text/csv")


@pytest.fixture
def run_import(client: FlaskClient, db: Database) -> Callable[..., dict[str, Any]]:
    """Return a function that imports a file to its end and returns the report."""

    def upload_and_merge(data: str | bytes, query: str = "") -> dict[str, Any]:
        response = upload(client, data, query)
        assert response.status_code == 202, response.text
        started = response.get_json()
        assert response.headers["Location"] == f"/api/v1/imports/{started['id']}"
        while merge_import_slice(db, started["id"]):
            pass
        report: dict[str, Any] = client.get(response.headers["Location"]).get_json()
        assert report["status"] == "finished", report
        assert report["rows_total"] == report["rows_done"]
        return report

    return upload_and_merge


def totals(report: dict[str, Any]) -> tuple[int, ...]:
    names = ("rows_total", "created", "updated", "unchanged", "rejected")
    return tuple(report[name] for name in names)


def find_client(client: FlaskClient, phone: str) -> dict[str, Any]:
    (found,) = client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    return found  # type: ignore[no-any-return]


def assert_no_open_imports(database: Cursor) -> None:
    database.execute(
        "SELECT (SELECT count(*) FROM imports WHERE status IN ('receiving', 'running')),"
        " (SELECT count(*) FROM pg_class WHERE relname LIKE 'import_rows%%')"
    )
    assert database.fetchone() == (0, 0)


def test_clients_are_created_updated_or_unchanged(
    client: FlaskClient,
    run_import: Callable[..., Any],
    new_phone: Callable[[], str],
    database: Cursor,
) -> None:
    a, b, c = new_phone(), new_phone(), new_phone()
    report = run_import(f"{HEADER}{a},,vip,Europe/Moscow\n{b},495,,Asia/Omsk\n{c},,x,Asia/Omsk\n")
    assert totals(report) == (3, 3, 0, 0, 0)
    assert report["errors"] == []
    first = find_client(client, a)
    assert (first["operator_code"], first["tag"], first["timezone"]) == (
        a[1:4],
        "vip",
        "Europe/Moscow",
    )
    assert find_client(client, b)["operator_code"] == "495"
    again = run_import(f"{HEADER}{a},,vip,Europe/Moscow\n{b},,new,Asia/Omsk\n{c},,,Asia/Tokyo\n")
    assert totals(again) == (3, 0, 2, 1, 0)
    assert find_client(client, a)["updated_at"] == first["updated_at"]
    assert (find_client(client, b)["operator_code"], find_client(client, b)["tag"]) == (
        "495",
        "new",
    )
    assert (find_client(client, c)["tag"], find_client(client, c)["timezone"]) == ("", "Asia/Tokyo")
    assert_no_open_imports(database)


def test_a_missing_column_leaves_values_unchanged(
    client: FlaskClient,
    run_import: Callable[..., Any],
    new_phone: Callable[[], str],
    new_client: Any,
) -> None:
    phone = new_phone()
    new_client(phone=phone, tag="vip", operator_code="495")
    assert totals(run_import(f"phone,timezone\n{phone},Asia/Omsk\n")) == (1, 0, 1, 0, 0)
    found = find_client(client, phone)
    assert (found["tag"], found["operator_code"], found["timezone"]) == ("vip", "495", "Asia/Omsk")


def test_a_given_operator_code_does_not_follow_the_phone(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    """As over the API, only a derived code follows a changed phone."""
    given, derived, later = new_phone(), new_phone(), new_phone()
    run_import(f"{HEADER}{given},495,,UTC\n{derived},,,UTC\n{later},,,UTC\n")
    run_import(f"{HEADER}{later},499,,UTC\n{derived},{derived[1:4]},,UTC\n")
    for phone, code in ((given, "495"), (derived, "777"), (later, "499")):
        new = f"7777{phone[4:]}"
        found = client.patch(
            f"/api/v1/clients/{find_client(client, phone)['id']}", json={"phone": new}
        )
        assert found.get_json()["operator_code"] == code


def test_encodings_delimiters_and_spellings_of_real_files_are_accepted(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    phone = new_phone()
    written = f"+7 ({phone[1:4]}) {phone[4:7]}-{phone[7:9]}-{phone[9:]}"
    file = f"Метка;Имя;Телефон;Часовой пояс\r\n  друзья ;Пётр;{written};europe/moscow\r\n;;;\r\n"
    for encoding in ("cp1251", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        report = run_import(file.encode(encoding))
        assert report["rows_total"] == 1
        assert report["rejected"] == 0
        assert (report["ignored_columns"], report["attribute_columns"]) == ([], ["Имя"])
        assert find_client(client, phone)["attributes"] == {"Имя": "Пётр"}
        assert find_client(client, phone)["tag"] == "друзья"
        assert find_client(client, phone)["timezone"] == "Europe/Moscow"
    eight = f"8 {phone[1:4]} {phone[4:7]} {phone[7:9]} {phone[9:]}"
    assert totals(run_import(f"телефон\tтег\n{eight}\tдрузья\n", "?timezone=Europe/Moscow"))[3] == 1


def test_empty_cells_are_filled_from_the_query_string(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    bare, full = new_phone(), new_phone()
    run_import(
        f"phone,tag,timezone\n{bare},,\n{full},own,Asia/Omsk\n", "?tag=crowd&timezone=Asia/Tokyo"
    )
    assert (find_client(client, bare)["tag"], find_client(client, bare)["timezone"]) == (
        "crowd",
        "Asia/Tokyo",
    )
    assert (find_client(client, full)["tag"], find_client(client, full)["timezone"]) == (
        "own",
        "Asia/Omsk",
    )


def test_the_default_timezone_applies_to_new_clients_only(
    database_url: str, redis_url: str, db: Database, new_phone: Callable[[], str], new_client: Any
) -> None:
    client = make_client(make_app(database_url, redis_url, DEFAULT_TIMEZONE="Asia/Omsk"))
    known, new = new_phone(), new_phone()
    new_client(phone=known, timezone="Asia/Tokyo")
    import_id = upload(client, f"phone,tag\n{known},a\n{new},a\n").get_json()["id"]
    while merge_import_slice(db, import_id):
        pass
    assert find_client(client, known)["timezone"] == "Asia/Tokyo"
    assert find_client(client, new)["timezone"] == "Asia/Omsk"


def test_invalid_rows_are_rejected_one_by_one_with_instructions(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    good = new_phone()
    bad = [
        "495-12-34,,vip,Europe/Moscow",
        '"7,9E+10",,vip,Europe/Moscow',
        f"{new_phone()},12,vip,Moon/Base",
        f"{new_phone()},,vip,",
        f"{new_phone()},,{'x' * 65},UTC",
        f"{new_phone()},,a,UTC,extra",
        f'{new_phone()},,"a"b,UTC',
        "=1+1,,vip,UTC",
    ]
    report = run_import(HEADER + "\n".join([bad[0], f"{good},,vip,UTC", *bad[1:]]) + "\n")
    assert totals(report) == (9, 1, 0, 0, 8)
    first = report["errors"][0]
    assert first == {
        "line": 2,
        "column": "phone",
        "value": "495-12-34",
        "detail": 'row 2: phone "495-12-34" must be 11 digits and start with 7, for example '
        "79161234567",
        "code": "phone_format",
    }
    reported = {(error["line"], error["column"]) for error in report["errors"]}
    assert reported == {
        *((2, "phone"), (4, "phone"), (5, "operator_code"), (5, "timezone"), (6, "timezone")),
        *((7, "tag"), (8, ""), (9, ""), (10, "phone")),
    }
    assert "format the column as text" in report["errors"][1]["detail"]
    response = client.get(f"/api/v1/imports/{report['id']}/rejected.csv")
    assert response.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["line"] for row in rows] == ["2", "4", "5", "6", "7", "8", "9", "10"]
    assert rows[0]["phone"] == "495-12-34"
    assert rows[0]["reason"].startswith('phone "495-12-34" must be 11 digits')
    assert rows[2]["reason"].count("; ") == 1
    assert rows[7]["phone"] == "'=1+1"


def test_rejected_rows_can_be_corrected_and_imported_again(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    phone = new_phone()
    report = run_import(f"phone,tag,timezone\n{phone},'=sum,Mars/Base\n")
    rejected = client.get(f"/api/v1/imports/{report['id']}/rejected.csv?excel=true").get_data()
    assert rejected.startswith(b"\xef\xbb\xbfline;phone;")
    corrected = run_import(rejected.replace(b";Mars/Base;", b";Moscow;"))
    assert totals(corrected) == (1, 1, 0, 0, 0)
    assert corrected["ignored_columns"] == ["line", "reason"]
    assert find_client(client, phone)["tag"] == "=sum"


def test_other_columns_are_attributes(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    a, b = new_phone(), new_phone()
    odd = 'О\'\\ "x" {1}'
    quoted = odd.replace('"', '""')
    header = "phone,timezone,first name,city,2nd,id,\n"
    report = run_import(f'{header}{a},UTC,"{quoted}",\'=Omsk,x,7,\n{b},UTC,,Omsk,,,\n')
    assert totals(report) == (2, 2, 0, 0, 0)
    assert report["attribute_columns"] == ["first_name", "city", "_2nd", "id"]
    assert report["ignored_columns"] == []
    named = {"first_name": odd, "city": "=Omsk", "_2nd": "x", "id": "7"}
    assert find_client(client, a)["attributes"] == named
    assert find_client(client, b)["attributes"] == {"city": "Omsk"}
    # Attributes that a file lacks or leaves empty stay unchanged.
    again = run_import(f"phone,timezone,city,points\n{a},UTC,,12\n{b},UTC,Omsk,\n")
    assert totals(again) == (2, 0, 1, 1, 0)
    assert find_client(client, a)["attributes"] == {**named, "points": "12"}
    assert find_client(client, b)["attributes"] == {"city": "Omsk"}
    assert totals(run_import(f"phone\n{b}\n", "?timezone=UTC"))[3] == 1
    assert find_client(client, b)["attributes"] == {"city": "Omsk"}
    # Importing an export changes nothing.
    exported = client.get("/api/v1/clients.csv").get_data()
    back = run_import(exported)
    assert back["unchanged"] == back["rows_total"] > 1
    assert back["attribute_columns"] == sorted(back["attribute_columns"])
    assert {"city", "first_name", "points"} <= set(back["attribute_columns"])


def test_invalid_attributes_reject_the_row_and_keep_its_cells(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    good, long, broken, bad = (new_phone() for _ in range(4))
    report = run_import(
        f"phone,timezone,name\n{good},UTC,Anna\n{long},UTC,{'x' * 201}\n"
        f'{broken},UTC,"a\n79161234567"\n{bad},Mars,Eva\n'
    )
    assert totals(report) == (4, 1, 0, 0, 3)
    assert [(e["column"], e["detail"]) for e in report["errors"]][:2] == [
        ("name", f'row 3: name "{"x" * 64}" must be at most 200 characters'),
        (
            "name",
            'row 4: name "a\n79161234567" must not hold a line break; look for a quote that is not '
            "closed",
        ),
    ]
    rejected = client.get(f"/api/v1/imports/{report['id']}/rejected.csv").get_data()
    assert rejected.startswith(b"line,phone,operator_code,tag,timezone,name,reason\r\n")
    corrected = run_import(rejected.replace(b",Mars,", b",UTC,"))
    assert find_client(client, bad)["attributes"] == {"name": "Eva"}
    assert corrected["rejected"] == 1  # the line break is still there


def test_a_client_has_at_most_twenty_attributes_of_any_number_of_columns(
    run_import: Callable[..., Any], new_phone: Callable[[], str], client: FlaskClient
) -> None:
    names = [f"a{n}" for n in range(30)]
    phone, full = new_phone(), new_phone()
    some = [name if n % 2 else "" for n, name in enumerate(names)]
    report = run_import(
        f"phone,timezone,{','.join(names)}\n{phone},UTC,{','.join(some)}\n"
        f"{full},UTC,{','.join(names)}\n"
    )
    assert report["attribute_columns"] == names
    assert find_client(client, phone)["attributes"] == {name: name for name in some if name}
    assert [(e["line"], e["code"]) for e in report["errors"]] == [(3, "too_many_attributes")]
    response = upload(client, f"phone,timezone,a b,a-b\n{phone},UTC,1,2\n")
    assert response.status_code == 422


def test_the_last_row_of_a_repeated_phone_wins(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    phone, other = new_phone(), new_phone()
    file = f"{HEADER}{phone},,one,UTC\n{other},,x,UTC\n{phone},,two,UTC\n{phone},,three,UTC\n"
    report = run_import(file)
    assert totals(report) == (4, 2, 0, 0, 2)
    assert find_client(client, phone)["tag"] == "three"
    assert [error["detail"] for error in report["errors"]] == [
        f'row {row}: phone "{phone}" is given again in row {again} with other values, and the last '
        "one wins"
        for row, again in ((2, 4), (4, 5))
    ]


def test_a_repeated_row_that_says_the_same_is_no_error(
    client: FlaskClient, run_import: Callable[..., Any], new_phone: Callable[[], str]
) -> None:
    phone = new_phone()
    same = f"{phone},,one,UTC,Omsk\n8{phone[1:]},, one ,UTC,Omsk\n"
    report = run_import(f"{HEADER[:-1]},city\n{same}{phone},,one,UTC,\n{same}")
    assert totals(report) == (5, 1, 0, 3, 1)
    assert [(e["line"], e["code"]) for e in report["errors"]] == [(4, "repeated")]


def test_only_the_first_hundred_errors_are_in_the_report(
    client: FlaskClient, run_import: Callable[..., Any]
) -> None:
    report = run_import("phone\n" + "1\n" * 12_000)
    assert report["rejected"] == 12_000
    assert len(report["errors"]) == 100
    response = client.get(f"/api/v1/imports/{report['id']}/rejected.csv")
    assert len(response.text.splitlines()) == 12_001


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", 422, "first line must name the columns"),
        (b"79160009999,vip\n", 422, "phone must be among them"),
        (b"name\nIvan\n", 422, "phone must be among them"),
        (b"PK\x03\x04....", 400, "Excel workbook"),
        ("phone\n79160009999".encode("utf-32"), 400, "UTF-32"),
        ("phone,tag\n79160009999,друг".encode() + b"\xff\n", 400, "neither UTF-8"),
        (HEADER.encode() + b"79160009999,,,UTC\n" * 30_000 + b"\x00", 400, "not text"),
        (HEADER.encode() + b"79160009999,,,UTC\n" * 60_000, 413, "larger than 1000000 bytes"),
    ],
)
def test_an_unusable_file_changes_nothing(
    database_url: str, redis_url: str, database: Cursor, data: bytes, status: int, detail: str
) -> None:
    client = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="1000000"))
    database.execute("SELECT count(*) FROM imports")
    before = value(database)
    response = upload(client, data, "?timezone=UTC")
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    assert detail in response.get_json()["detail"]
    database.execute("SELECT count(*) FROM imports")
    assert value(database) == before
    database.execute("SELECT count(*) FROM rejected_rows WHERE phone = '79160009999'")
    assert value(database) == 0
    assert client.get("/api/v1/clients?phone=79160009999").get_json()["items"] == []
    assert_no_open_imports(database)


def test_bodies_of_unknown_length_are_limited(
    database_url: str, redis_url: str, database: Cursor
) -> None:
    client = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="1000"))
    response = client.post(
        "/api/v1/clients/import",
        input_stream=io.BytesIO(b"phone\n" + b"1\n" * 10_000),
        content_type="text/csv",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert response.status_code == 413, response.text
    assert_no_open_imports(database)


def test_a_truncated_body_changes_nothing(client: FlaskClient, database: Cursor) -> None:
    response = client.post(
        "/api/v1/clients/import",
        input_stream=io.BytesIO(b"phone\n1\n"),
        content_type="text/csv",
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": "1000"},
    )
    assert response.status_code == 400, response.text
    assert_no_open_imports(database)


@pytest.mark.parametrize(
    ("query", "content_type", "status"),
    [
        ("?timezone=Moscow", "text/csv", 422),
        ("?tag=" + "x" * 65, "text/csv", 422),
        ("?zone=UTC", "text/csv", 422),
        ("", "application/json", 415),
        ("", "multipart/form-data; boundary=x", 400),
    ],
)
def test_invalid_requests_are_rejected(
    client: FlaskClient, query: str, content_type: str, status: int
) -> None:
    path = f"/api/v1/clients/import{query}"
    response = client.post(path, data=b"phone\n1\n", content_type=content_type)
    assert response.status_code == status, response.text


def test_other_bodies_keep_their_smaller_limit(client: FlaskClient) -> None:
    assert client.post("/api/v1/clients", json={"tag": "x" * 1_100_000}).status_code == 413


def test_an_unknown_import_is_not_found(client: FlaskClient) -> None:
    assert client.get("/api/v1/imports/999999").status_code == 404
    assert client.get("/api/v1/imports/999999/rejected.csv").status_code == 404


def test_imports_are_listed_in_pages(client: FlaskClient, run_import: Callable[..., Any]) -> None:
    ids = [run_import("phone\n1\n")["id"] for _ in range(3)]
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(f"/api/v1/imports?limit=2{cursor and '&cursor=' + cursor}").get_json()
        found += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
    assert found[-3:] == ids


def fail_in_a_chunk(db: Database, import_id: int) -> None:
    with db.transaction() as cursor:
        merge_chunk(cursor, import_id, size=4)
        raise ZeroDivisionError


def test_a_merge_can_stop_after_any_chunk_or_inside_one(
    client: FlaskClient, db: Database, new_phone: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = sorted(new_phone() for _ in range(10))
    lines = "".join(f"{phone},,chunk,UTC\n" for phone in phones)
    lines += "".join(f"{phone},,again,UTC\n" for phone in phones[4:6])
    started = upload(client, HEADER + lines).get_json()
    assert (started["status"], started["rows_total"], started["rows_done"]) == ("running", 12, 0)
    seen = []
    while True:
        with db.transaction() as cursor:
            merged = merge_chunk(cursor, started["id"], size=4)
        if merged is None:
            break
        if not merged.rows:
            continue
        report = client.get(f"/api/v1/imports/{started['id']}").get_json()
        seen.append(report["rows_done"])
        with pytest.raises(ZeroDivisionError):
            fail_in_a_chunk(db, started["id"])  # rolled back
        assert client.get(f"/api/v1/imports/{started['id']}").get_json() == report
    assert seen == sorted(seen)
    assert len(seen) == 3
    report = client.get(f"/api/v1/imports/{started['id']}").get_json()
    assert report["status"] == "finished"
    assert totals(report) == (12, 10, 0, 0, 2)


def test_two_workers_merge_each_row_of_an_import_once(
    client: FlaskClient,
    database_url: str,
    new_phone: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each merges a part of its own, as long as there are two."""
    monkeypatch.setattr("shared.client_import.merge.PART_ROWS", 1_000)
    lines = "".join(f"{new_phone()},,both,UTC\n" for _ in range(3_000))
    import_id = upload(client, HEADER + lines).get_json()["id"]

    chunks: list[tuple[int, int]] = []

    def merge_parts() -> None:
        own = Database(database_url, "test")
        more = True
        while more:
            with own.transaction() as cursor:
                merged = merge_chunk(cursor, import_id, size=100)
            chunks.append((threading.get_ident(), merged.rows if merged else 0))
            with own.transaction() as cursor:
                cursor.execute("SELECT status = 'running' FROM imports WHERE id = %s", (import_id,))
                more = value(cursor)
        own.close()

    workers = [threading.Thread(target=merge_parts) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert totals(report) == (3_000, 3_000, 0, 0, 0)
    assert report["status"] == "finished"
    assert len({thread for thread, rows in chunks if rows}) == 2
    assert sum(rows for _, rows in chunks) == 3_000


def test_a_client_created_during_the_merge_is_updated(
    client: FlaskClient, db: Database, database_url: str, new_phone: Callable[[], str]
) -> None:
    phone = new_phone()
    import_id = upload(client, f"{HEADER}{phone},,mine,UTC\n").get_json()["id"]
    other = psycopg2.connect(database_url)
    with other.cursor() as cursor:
        cursor.execute(
            "INSERT INTO clients (phone, operator_code, tag, timezone)"
            " VALUES (%s, '916', 'theirs', 'UTC')",
            (phone,),
        )
        merging = threading.Thread(target=merge_import_slice, args=(db, import_id))
        merging.start()
        cursor.execute("SELECT pg_backend_pid()")
        pid = value(cursor)

        def blocks_another() -> bool:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE %s = ANY (pg_blocking_pids(pid)))",
                (pid,),
            )
            return bool(value(cursor))

        wait_for(blocks_another, 10, "the merge to wait for the other insert")
    other.commit()
    merging.join(30)
    other.close()
    merge_import_slice(db, import_id)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert totals(report) == (1, 0, 1, 0, 0)
    assert find_client(client, phone)["tag"] == "mine"


def test_pending_messages_move_to_the_new_zones_of_their_clients(
    fleet: Fleet, run_import: Callable[..., Any], database: Cursor
) -> None:
    """The pending messages of all clients move at once, into one batch per zone."""
    ids = fleet.add_clients(6, zones=["Europe/Moscow"], tag="movers")
    mailing_id = fleet.add_mailing(tags=["movers"])
    fleet.launch_mailing(mailing_id)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(accepted=worker.ids[:1])
    rows = fleet.query("SELECT id, phone FROM clients WHERE id = ANY (%s) ORDER BY id", ids)
    zones = ["Asia/Omsk", "Asia/Omsk", "Asia/Omsk", "Asia/Tokyo", "Europe/Moscow", "Asia/Tokyo"]
    lines = [f"{phone},{zone}" for (_, phone), zone in zip(rows, zones, strict=True)]
    report = run_import("phone,timezone\n" + "\n".join(lines))
    assert totals(report) == (6, 0, 5, 1, 0)
    batches = fleet.query(
        "SELECT timezone, size, pending, sent FROM batches WHERE mailing_id = %s ORDER BY id",
        mailing_id,
    )
    assert batches == [
        ("Europe/Moscow", 2, 1, 1),
        ("Asia/Omsk", 2, 2, 0),
        ("Asia/Tokyo", 2, 2, 0),
    ]


def test_the_sweep_enqueues_an_import_whose_job_is_lost(
    client: FlaskClient,
    db: Database,
    database: Cursor,
    redis_url: str,
    new_phone: Callable[[], str],
) -> None:
    import_id = upload(client, f"{HEADER}{new_phone()},,lost,UTC\n").get_json()["id"]
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    queues = Queues.connect(redis_url)
    sweep_imports(db, queues)
    assert redis.llen("rq:queue:control") == 0  # its job may still be queued
    database.execute(
        "UPDATE imports SET updated_at = now() - interval '6 seconds' WHERE id = %s", (import_id,)
    )
    sweep_imports(db, queues)
    sweep_imports(db, queues)
    assert redis.llen("rq:queue:control") == 1
    assert not merge_import_slice(db, import_id)


def test_an_import_that_cannot_be_merged_fails_with_a_reason(
    client: FlaskClient, db: Database, database: Cursor, new_phone: Callable[[], str]
) -> None:
    import_id = upload(client, f"{HEADER}{new_phone()},,gone,UTC\n").get_json()["id"]
    database.execute(f"DROP TABLE import_rows_{import_id}")
    assert not merge_import_slice(db, import_id)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert report["status"] == "failed"
    assert "Send it again" in report["failure"]


def test_old_and_abandoned_imports_are_deleted(
    client: FlaskClient,
    db: Database,
    database: Cursor,
    redis_url: str,
    run_import: Callable[..., Any],
) -> None:
    queues = Queues.connect(redis_url)
    old, kept = run_import("phone\n1\n2\n")["id"], run_import("phone\n1\n")["id"]
    for import_id, age in ((old, timedelta(days=31)), (kept, timedelta(days=29))):
        database.execute(
            "UPDATE imports SET created_at = %s WHERE id = %s",
            (datetime.now(UTC) - age, import_id),
        )
    database.execute("INSERT INTO imports (updated_at) VALUES (now() - interval '61 minutes')")
    database.execute("INSERT INTO imports DEFAULT VALUES RETURNING id")
    receiving = value(database)
    assert client.get(f"/api/v1/imports/{receiving}").status_code == 404
    sweep_imports(db, queues)
    assert client.get(f"/api/v1/imports/{old}").status_code == 404
    assert client.get(f"/api/v1/imports/{kept}").status_code == 200
    database.execute("SELECT count(*) FROM rejected_rows WHERE import_id = %s", (old,))
    assert value(database) == 0
    database.execute("DELETE FROM imports WHERE status = 'receiving' RETURNING id")
    assert database.fetchall() == [(receiving,)]


def test_a_form_uploads_the_same_file(client: FlaskClient, database: Cursor) -> None:
    file = (io.BytesIO(b"phone,timezone\n79419990001,UTC\n"), "clients.csv")
    response = client.post("/api/v1/clients/import", data={"file": file})
    assert response.status_code == 202, response.text
    assert response.get_json()["rows_total"] == 1


def test_a_form_without_a_file_is_rejected(client: FlaskClient, database: Cursor) -> None:
    response = client.post("/api/v1/clients/import", data={"other": (io.BytesIO(b"x"), "x.csv")})
    assert response.status_code == 400, response.text
    assert "named `file`" in response.get_json()["detail"]


def test_files_in_forms_are_limited(database_url: str, redis_url: str) -> None:
    client = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="1000"))
    for size in (1_500, 200_000):
        file = (io.BytesIO(b"phone\n" + b"1" * size), "clients.csv")
        response = client.post("/api/v1/clients/import", data={"file": file})
        assert response.status_code == 413, response.text
        assert "1000 bytes" in response.get_json()["detail"]


def test_an_import_counts_as_an_edit_of_the_clients_it_changes(
    client: FlaskClient,
    run_import: Callable[..., dict[str, Any]],
    new_client: Callable[..., dict[str, Any]],
    new_phone: Callable[[], str],
) -> None:
    changed, kept = new_phone(), new_phone()
    paths = [f"/api/v1/clients/{new_client(phone=each)['id']}" for each in (changed, kept)]
    zone = "Europe/Moscow"
    run_import(f"phone,tag,timezone\n{changed},imported,{zone}\n{kept},,{zone}\n")
    assert [client.get(path).headers["ETag"] for path in paths] == ['"2"', '"1"']
    change = {"json": {"tag": "x"}, "headers": {"If-Match": '"1"'}}
    assert client.patch(paths[0], **change).status_code == 412
    assert client.patch(paths[1], **change).status_code == 200
