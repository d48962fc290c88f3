"""Imports: a file goes in over the API, a worker merges it, the report says what became of it."""

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


@pytest.fixture(scope="module")
def db(database_url: str) -> Iterator[Database]:
    db = Database(database_url, "test")
    yield db
    db.close()


@pytest.fixture
def number(phones: Iterator[str]) -> Callable[[], str]:
    """A phone that nobody has."""
    return lambda: next(phones)


def upload(client: FlaskClient, data: str | bytes, query: str = "") -> TestResponse:
    body = data.encode() if isinstance(data, str) else data
    return client.post(f"/api/v1/clients/import{query}", data=body, content_type="text/csv")


@pytest.fixture
def load(client: FlaskClient, db: Database) -> Callable[..., dict[str, Any]]:
    """Import a file to its end; the report."""

    def run(data: str | bytes, query: str = "") -> dict[str, Any]:
        answer = upload(client, data, query)
        assert answer.status_code == 202, answer.text
        made = answer.get_json()
        assert answer.headers["Location"] == f"/api/v1/imports/{made['id']}"
        while merge_import_slice(db, made["id"]):
            pass
        report: dict[str, Any] = client.get(answer.headers["Location"]).get_json()
        assert report["status"] == "finished", report
        assert report["rows_total"] == report["rows_done"]
        return report

    return run


def counts(report: dict[str, Any]) -> tuple[int, ...]:
    names = ("rows_total", "created", "updated", "unchanged", "rejected")
    return tuple(report[name] for name in names)


def find(client: FlaskClient, phone: str) -> dict[str, Any]:
    (found,) = client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    return found  # type: ignore[no-any-return]


def nothing_is_left(database: Cursor) -> None:
    database.execute(
        "SELECT (SELECT count(*) FROM imports WHERE status IN ('receiving', 'running')),"
        " (SELECT count(*) FROM pg_class WHERE relname LIKE 'import_rows%%')"
    )
    assert database.fetchone() == (0, 0)


def test_clients_are_made_updated_and_left_alone(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str], database: Cursor
) -> None:
    a, b, c = number(), number(), number()
    report = load(f"{HEADER}{a},,vip,Europe/Moscow\n{b},495,,Asia/Omsk\n{c},,x,Asia/Omsk\n")
    assert counts(report) == (3, 3, 0, 0, 0)
    assert report["errors"] == []
    first = find(client, a)
    assert (first["operator_code"], first["tag"], first["timezone"]) == (
        a[1:4],
        "vip",
        "Europe/Moscow",
    )
    assert find(client, b)["operator_code"] == "495"
    again = load(f"{HEADER}{a},,vip,Europe/Moscow\n{b},,new,Asia/Omsk\n{c},,,Asia/Tokyo\n")
    assert counts(again) == (3, 0, 2, 1, 0)
    assert find(client, a)["updated_at"] == first["updated_at"]
    assert (find(client, b)["operator_code"], find(client, b)["tag"]) == ("495", "new")
    assert (find(client, c)["tag"], find(client, c)["timezone"]) == ("", "Asia/Tokyo")
    nothing_is_left(database)


def test_a_column_that_is_not_there_leaves_what_is_known(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str], new_client: Any
) -> None:
    phone = number()
    new_client(phone=phone, tag="vip", operator_code="495")
    assert counts(load(f"phone,timezone\n{phone},Asia/Omsk\n")) == (1, 0, 1, 0, 0)
    found = find(client, phone)
    assert (found["tag"], found["operator_code"], found["timezone"]) == ("vip", "495", "Asia/Omsk")


def test_an_operator_code_that_was_given_stays_given(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    """As over the API: it follows a changed phone only where it was not given."""
    given, derived, later = number(), number(), number()
    load(f"{HEADER}{given},495,,UTC\n{derived},,,UTC\n{later},,,UTC\n")
    load(f"{HEADER}{later},499,,UTC\n{derived},{derived[1:4]},,UTC\n")
    for phone, code in ((given, "495"), (derived, "777"), (later, "499")):
        new = f"7777{phone[4:]}"
        found = client.patch(f"/api/v1/clients/{find(client, phone)['id']}", json={"phone": new})
        assert found.get_json()["operator_code"] == code


def test_files_as_people_have_them(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    phone = number()
    written = f"+7 ({phone[1:4]}) {phone[4:7]}-{phone[7:9]}-{phone[9:]}"
    file = f"Метка;Имя;Телефон;Часовой пояс\r\n  друзья ;Пётр;{written};europe/moscow\r\n;;;\r\n"
    for encoding in ("cp1251", "utf-8", "utf-8-sig"):
        report = load(file.encode(encoding))
        assert report["rows_total"] == 1
        assert report["rejected"] == 0
        assert (report["ignored_columns"], report["attribute_columns"]) == ([], ["Имя"])
        assert find(client, phone)["attributes"] == {"Имя": "Пётр"}
        assert find(client, phone)["tag"] == "друзья"
        assert find(client, phone)["timezone"] == "Europe/Moscow"
    eight = f"8 {phone[1:4]} {phone[4:7]} {phone[7:9]} {phone[9:]}"
    assert counts(load(f"телефон\tтег\n{eight}\tдрузья\n", "?timezone=Europe/Moscow"))[3] == 1


def test_gaps_are_filled_from_the_address(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    bare, full = number(), number()
    load(f"phone,tag,timezone\n{bare},,\n{full},own,Asia/Omsk\n", "?tag=crowd&timezone=Asia/Tokyo")
    assert (find(client, bare)["tag"], find(client, bare)["timezone"]) == ("crowd", "Asia/Tokyo")
    assert (find(client, full)["tag"], find(client, full)["timezone"]) == ("own", "Asia/Omsk")


def test_the_default_zone_is_for_new_clients_only(
    database_url: str, redis_url: str, db: Database, number: Callable[[], str], new_client: Any
) -> None:
    client = make_client(make_app(database_url, redis_url, DEFAULT_TIMEZONE="Asia/Omsk"))
    known, new = number(), number()
    new_client(phone=known, timezone="Asia/Tokyo")
    import_id = upload(client, f"phone,tag\n{known},a\n{new},a\n").get_json()["id"]
    while merge_import_slice(db, import_id):
        pass
    assert find(client, known)["timezone"] == "Asia/Tokyo"
    assert find(client, new)["timezone"] == "Asia/Omsk"


def test_bad_rows_are_rejected_one_by_one_with_instructions(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    good = number()
    bad = [
        "9161234567,,vip,Europe/Moscow",
        '"7,9E+10",,vip,Europe/Moscow',
        f"{number()},12,vip,Moon/Base",
        f"{number()},,vip,",
        f"{number()},,{'x' * 65},UTC",
        f"{number()},,a,UTC,extra",
        f'{number()},,"a"b,UTC',
        "=1+1,,vip,UTC",
    ]
    report = load(HEADER + "\n".join([bad[0], f"{good},,vip,UTC", *bad[1:]]) + "\n")
    assert counts(report) == (9, 1, 0, 0, 8)
    first = report["errors"][0]
    assert first == {
        "line": 2,
        "column": "phone",
        "detail": "line 2: phone must be 11 digits and start with 7, for example 79161234567",
    }
    said = {(error["line"], error["column"]) for error in report["errors"]}
    assert said == {
        *((2, "phone"), (4, "phone"), (5, "operator_code"), (5, "timezone"), (6, "timezone")),
        *((7, "tag"), (8, ""), (9, ""), (10, "phone")),
    }
    assert "format the column as text" in report["errors"][1]["detail"]
    answer = client.get(f"/api/v1/imports/{report['id']}/rejected.csv")
    assert answer.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["line"] for row in rows] == ["2", "4", "5", "6", "7", "8", "9", "10"]
    assert rows[0]["phone"] == "9161234567"
    assert rows[0]["reason"].startswith("phone must be 11 digits")
    assert rows[2]["reason"].count("; ") == 1
    assert rows[7]["phone"] == "'=1+1"


def test_rejected_rows_can_be_mended_and_sent_again(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    phone = number()
    report = load(f"phone,tag,timezone\n{phone},'=sum,Moscow\n")
    rejected = client.get(f"/api/v1/imports/{report['id']}/rejected.csv?excel=true").get_data()
    assert rejected.startswith(b"\xef\xbb\xbfline;phone;")
    mended = load(rejected.replace(b";Moscow;", b";Europe/Moscow;"))
    assert counts(mended) == (1, 1, 0, 0, 0)
    assert mended["ignored_columns"] == ["line", "reason"]
    assert find(client, phone)["tag"] == "=sum"


def test_other_columns_are_attributes(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    a, b = number(), number()
    odd = 'О\'\\ "x" {1}'
    quoted = odd.replace('"', '""')
    header = "phone,timezone,first name,city,2nd,id,Reason\n"
    report = load(f'{header}{a},UTC,"{quoted}",\'=Omsk,x,7,y\n{b},UTC,,Omsk,x,7,y\n')
    assert counts(report) == (2, 2, 0, 0, 0)
    assert report["attribute_columns"] == ["first_name", "city"]
    assert report["ignored_columns"] == ["2nd", "id", "Reason"]
    assert find(client, a)["attributes"] == {"first_name": odd, "city": "=Omsk"}
    assert find(client, b)["attributes"] == {"city": "Omsk"}
    # What a file does not name, or leaves empty, stays.
    again = load(f"phone,timezone,city,points\n{a},UTC,,12\n{b},UTC,Omsk,\n")
    assert counts(again) == (2, 0, 1, 1, 0)
    assert find(client, a)["attributes"] == {"first_name": odd, "city": "=Omsk", "points": "12"}
    assert find(client, b)["attributes"] == {"city": "Omsk"}
    assert counts(load(f"phone\n{b}\n", "?timezone=UTC"))[3] == 1
    assert find(client, b)["attributes"] == {"city": "Omsk"}
    # An export brings all of it back as it was.
    exported = client.get("/api/v1/clients.csv").get_data()
    back = load(exported)
    assert back["unchanged"] == back["rows_total"] > 1
    assert back["attribute_columns"] == sorted(back["attribute_columns"])
    assert {"city", "first_name", "points"} <= set(back["attribute_columns"])


def test_attributes_that_are_wrong_reject_their_row_and_keep_its_cells(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    good, long, broken, bad = (number() for _ in range(4))
    report = load(
        f"phone,timezone,name\n{good},UTC,Anna\n{long},UTC,{'x' * 201}\n"
        f'{broken},UTC,"a\nb"\n{bad},Mars,Eva\n'
    )
    assert counts(report) == (4, 1, 0, 0, 3)
    assert [(e["column"], e["detail"]) for e in report["errors"]][:2] == [
        ("name", "line 3: name must be at most 200 characters"),
        ("name", "line 4: name must not hold a line break; look for a quote that is not closed"),
    ]
    rejected = client.get(f"/api/v1/imports/{report['id']}/rejected.csv").get_data()
    assert rejected.startswith(b"line,phone,operator_code,tag,timezone,name,reason\r\n")
    mended = load(rejected.replace(b",Mars,", b",UTC,"))
    assert find(client, bad)["attributes"] == {"name": "Eva"}
    assert mended["rejected"] == 1  # the line break is in there still


def test_there_are_at_most_twenty_attribute_columns(
    load: Callable[..., Any], number: Callable[[], str], client: FlaskClient
) -> None:
    names = [f"a{n}" for n in range(22)]
    phone = number()
    report = load(f"phone,timezone,{','.join(names)}\n{phone},UTC,{','.join(names)}\n")
    assert report["attribute_columns"] == names[:20]
    assert report["ignored_columns"] == names[20:]
    assert find(client, phone)["attributes"] == {name: name for name in names[:20]}
    answer = upload(client, f"phone,timezone,a b,a-b\n{phone},UTC,1,2\n")
    assert answer.status_code == 422


def test_of_a_phone_given_twice_the_last_wins(
    client: FlaskClient, load: Callable[..., Any], number: Callable[[], str]
) -> None:
    phone, other = number(), number()
    file = f"{HEADER}{phone},,one,UTC\n{other},,x,UTC\n{phone},,two,UTC\n{phone},,three,UTC\n"
    report = load(file)
    assert counts(report) == (4, 2, 0, 0, 2)
    assert find(client, phone)["tag"] == "three"
    assert [error["detail"] for error in report["errors"]] == [
        "line 2: phone is given again in line 4, and the last one wins",
        "line 4: phone is given again in line 5, and the last one wins",
    ]


def test_only_the_first_hundred_errors_are_in_the_report(
    client: FlaskClient, load: Callable[..., Any]
) -> None:
    report = load("phone\n" + "1\n" * 12_000)
    assert report["rejected"] == 12_000
    assert len(report["errors"]) == 100
    answer = client.get(f"/api/v1/imports/{report['id']}/rejected.csv")
    assert len(answer.text.splitlines()) == 12_001


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 422, "first line must name the columns"),
        (b"79160009999,vip\n", 422, "phone must be among them"),
        (b"name\nIvan\n", 422, "phone must be among them"),
        (b"PK\x03\x04....", 400, "Excel workbook"),
        ("phone\n79160009999".encode("utf-16"), 400, "UTF-16"),
        ("phone,tag\n79160009999,друг".encode() + b"\xff\n", 400, "neither UTF-8"),
        (HEADER.encode() + b"79160009999,,,UTC\n" * 30_000 + b"\x00", 400, "not text"),
        (HEADER.encode() + b"79160009999,,,UTC\n" * 60_000, 413, "larger than 1000000 bytes"),
    ],
)
def test_a_bad_file_changes_nothing(
    database_url: str, redis_url: str, database: Cursor, data: bytes, status: int, says: str
) -> None:
    client = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="1000000"))
    database.execute("SELECT count(*) FROM imports")
    before = value(database)
    answer = upload(client, data, "?timezone=UTC")
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    assert says in answer.get_json()["detail"]
    database.execute("SELECT count(*) FROM imports")
    assert value(database) == before
    database.execute("SELECT count(*) FROM rejected_rows WHERE phone = '79160009999'")
    assert value(database) == 0
    assert client.get("/api/v1/clients?phone=79160009999").get_json()["items"] == []
    nothing_is_left(database)


def test_bodies_of_unknown_length_are_limited_too(
    database_url: str, redis_url: str, database: Cursor
) -> None:
    client = make_client(make_app(database_url, redis_url, IMPORT_MAX_BYTES="1000"))
    answer = client.post(
        "/api/v1/clients/import",
        input_stream=io.BytesIO(b"phone\n" + b"1\n" * 10_000),
        content_type="text/csv",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert answer.status_code == 413, answer.text
    nothing_is_left(database)


def test_a_body_that_is_cut_short_changes_nothing(client: FlaskClient, database: Cursor) -> None:
    answer = client.post(
        "/api/v1/clients/import",
        input_stream=io.BytesIO(b"phone\n1\n"),
        content_type="text/csv",
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": "1000"},
    )
    assert answer.status_code == 400, answer.text
    nothing_is_left(database)


@pytest.mark.parametrize(
    ("query", "content_type", "status"),
    [
        ("?timezone=Moscow", "text/csv", 422),
        ("?tag=" + "x" * 65, "text/csv", 422),
        ("?zone=UTC", "text/csv", 422),
        ("", "application/json", 415),
        ("", "multipart/form-data; boundary=x", 415),
    ],
)
def test_bad_requests(client: FlaskClient, query: str, content_type: str, status: int) -> None:
    path = f"/api/v1/clients/import{query}"
    answer = client.post(path, data=b"phone\n1\n", content_type=content_type)
    assert answer.status_code == status, answer.text


def test_other_bodies_keep_their_limit(client: FlaskClient) -> None:
    assert client.post("/api/v1/clients", json={"tag": "x" * 1_100_000}).status_code == 413


def test_there_is_no_such_import(client: FlaskClient) -> None:
    assert client.get("/api/v1/imports/999999").status_code == 404
    assert client.get("/api/v1/imports/999999/rejected.csv").status_code == 404


def test_imports_are_listed_in_pages(client: FlaskClient, load: Callable[..., Any]) -> None:
    ids = [load("phone\n1\n")["id"] for _ in range(3)]
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(f"/api/v1/imports?limit=2{cursor and '&cursor=' + cursor}").get_json()
        found += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
    assert found[-3:] == ids


def die_in_a_chunk(db: Database, import_id: int) -> None:
    with db.transaction() as cursor:
        merge_chunk(cursor, import_id, size=4)
        raise ZeroDivisionError


def test_it_merges_in_chunks_and_may_stop_between_any_two(
    client: FlaskClient, db: Database, number: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = sorted(number() for _ in range(10))
    lines = "".join(f"{phone},,chunk,UTC\n" for phone in [*phones, phones[4], phones[5]])
    made = upload(client, HEADER + lines).get_json()
    assert (made["status"], made["rows_total"], made["rows_done"]) == ("running", 12, 0)
    seen = []
    while True:
        with db.transaction() as cursor:
            merged = merge_chunk(cursor, made["id"], size=4)
        if merged is None:
            break
        if not merged.rows:
            continue
        report = client.get(f"/api/v1/imports/{made['id']}").get_json()
        seen.append(report["rows_done"])
        with pytest.raises(ZeroDivisionError):
            die_in_a_chunk(db, made["id"])  # it leaves no trace
        assert client.get(f"/api/v1/imports/{made['id']}").get_json() == report
    assert seen == sorted(seen)
    assert len(seen) == 3
    report = client.get(f"/api/v1/imports/{made['id']}").get_json()
    assert report["status"] == "finished"
    assert counts(report) == (12, 10, 0, 0, 2)


def test_two_at_one_import_do_everything_once(
    client: FlaskClient,
    database_url: str,
    number: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each at a part of its own, as long as there are two."""
    monkeypatch.setattr("shared.client_import.merge.PART_ROWS", 1_000)
    lines = "".join(f"{number()},,both,UTC\n" for _ in range(3_000))
    import_id = upload(client, HEADER + lines).get_json()["id"]

    chunks: list[tuple[int, int]] = []

    def work() -> None:
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

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert counts(report) == (3_000, 3_000, 0, 0, 0)
    assert report["status"] == "finished"
    assert len({thread for thread, rows in chunks if rows}) == 2
    assert sum(rows for _, rows in chunks) == 3_000


def test_a_client_who_appears_meanwhile_is_updated(
    client: FlaskClient, db: Database, database_url: str, number: Callable[[], str]
) -> None:
    phone = number()
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

        def waited_for() -> bool:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE %s = ANY (pg_blocking_pids(pid)))",
                (pid,),
            )
            return bool(value(cursor))

        wait_for(waited_for, 10, "the merge waits for the other insert")
    other.commit()
    merging.join(30)
    other.close()
    merge_import_slice(db, import_id)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert counts(report) == (1, 0, 1, 0, 0)
    assert find(client, phone)["tag"] == "mine"


def test_messages_move_with_the_zones_of_their_clients(
    fleet: Fleet, load: Callable[..., Any], database: Cursor
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
    report = load("phone,timezone\n" + "\n".join(lines))
    assert counts(report) == (6, 0, 5, 1, 0)
    batches = fleet.query(
        "SELECT timezone, size, pending, sent FROM batches WHERE mailing_id = %s ORDER BY id",
        mailing_id,
    )
    assert batches == [
        ("Europe/Moscow", 2, 1, 1),
        ("Asia/Omsk", 2, 2, 0),
        ("Asia/Tokyo", 2, 2, 0),
    ]


def test_the_sweep_finds_an_import_whose_job_is_lost(
    client: FlaskClient, db: Database, database: Cursor, redis_url: str, number: Callable[[], str]
) -> None:
    import_id = upload(client, f"{HEADER}{number()},,lost,UTC\n").get_json()["id"]
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    queues = Queues.connect(redis_url)
    sweep_imports(db, queues)
    assert redis.llen("rq:queue:control") == 0  # its job may still be on its way
    database.execute(
        "UPDATE imports SET updated_at = now() - interval '6 seconds' WHERE id = %s", (import_id,)
    )
    sweep_imports(db, queues)
    sweep_imports(db, queues)
    assert redis.llen("rq:queue:control") == 1
    assert not merge_import_slice(db, import_id)


def test_what_cannot_be_merged_fails_with_the_reason(
    client: FlaskClient, db: Database, database: Cursor, number: Callable[[], str]
) -> None:
    import_id = upload(client, f"{HEADER}{number()},,gone,UTC\n").get_json()["id"]
    database.execute(f"DROP TABLE import_rows_{import_id}")
    assert not merge_import_slice(db, import_id)
    report = client.get(f"/api/v1/imports/{import_id}").get_json()
    assert report["status"] == "failed"
    assert "Send it again" in report["failure"]


def test_old_and_abandoned_imports_are_removed(
    client: FlaskClient, db: Database, database: Cursor, redis_url: str, load: Callable[..., Any]
) -> None:
    queues = Queues.connect(redis_url)
    old, kept = load("phone\n1\n2\n")["id"], load("phone\n1\n")["id"]
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
