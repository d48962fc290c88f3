"""Deleting a client erases the phone everywhere: the whole of PostgreSQL and Redis is searched."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from shared.client_import.merge import merge_chunk
from shared.db.erasures import SETTLE_SECONDS
from tests.integration import conftest as integration
from tests.integration.conftest import ahead, mailing_body, value
from worker.maintenance.erasure import sweep_erasures
from worker.runtime.database import Database

app, client = integration.app, integration.client

PHONE = "79167654321"
OTHER = "79160000009"
SPELLINGS = (PHONE, "+7 (916) 765-43-21", "8 916 765 43 21", "9167654321", "7-916-765-4321")
EXCEPTIONS = {"opt_outs"}  # the promise never to write to a phone outlives its client


@pytest.fixture
def worker(database_url: str) -> Iterator[Database]:
    db = Database(database_url, "test-erasure")
    yield db
    db.close()


def find_in_postgresql(cursor: Cursor, phone: str) -> set[str]:
    """Return the tables whose rows contain the phone, however it is written."""
    cursor.execute(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'm')"
        " AND c.relnamespace = 'public'::regnamespace"
    )
    found = set()
    for (table,) in cursor.fetchall():
        cursor.execute(
            sql.SQL(
                "SELECT count(*) FROM {} t WHERE regexp_replace(t::text, '[^0-9]', '', 'g') LIKE %s"
            ).format(sql.SQL(table)),
            (f"%{phone[1:]}%",),
        )
        if value(cursor):
            found.add(table)
    return found


def find_in_redis(redis: Redis, phone: str) -> set[str]:
    """Return the keys that contain the phone, in their name or in their dumped value."""
    found = set()
    for key in redis.scan_iter("*"):
        dump = redis.dump(key) or b""
        content = b" ".join((key, dump, repr(_read(redis, key)).encode()))
        if phone[1:].encode() in re.sub(rb"[ ()+-]", b"", content):
            found.add(key.decode())
    return found


def _read(redis: Redis, key: bytes) -> Any:
    """Return the value of a key; short numbers and long texts are compressed in a dump."""
    readers: dict[bytes, Any] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1),
    }
    kind: Any = redis.type(key)
    return readers[kind](key) if kind in readers else b""


def make_traces(client: FlaskClient, database: Cursor) -> int:
    """Store the phone wherever the product stores one; return the client's id."""
    made = client.post(
        "/api/v1/clients",
        json={"phone": PHONE, "timezone": "Europe/Moscow", "attributes": {"tel": PHONE}},
    )
    assert made.status_code == 201, made.text
    client_id: int = made.get_json()["id"]
    for phones, key in (([PHONE], "one"), ([OTHER, PHONE], "two")):
        body = {**mailing_body(), "filter": {"phones": phones}}
        created = client.post("/api/v1/mailings", json=body, headers={"Idempotency-Key": key})
        assert created.status_code == 201, created.text
    rows = "\n".join(f"{cell},{cell},nowhere,{cell}" for cell in SPELLINGS)
    answer = client.post(
        "/api/v1/clients/import?file_name=8-916-765-43-21.csv",
        data=f"phone,tag,timezone,mobile2\n{rows}\n",
        content_type="text/csv",
    )
    assert answer.status_code == 202, answer.text
    database.execute(
        "INSERT INTO import_changes SELECT %s, id, version, operator_code, operator_code_given,"
        " tag, timezone, attributes FROM clients WHERE id = %s",
        (answer.get_json()["id"], client_id),
    )
    assert client.post("/api/v1/opt-outs", json={"phones": [PHONE]}).status_code < 300
    database.execute(
        "INSERT INTO test_sends (first_message_id, text, phones, actor, expires_at, claimed_at,"
        " finished_at, results, created_at) VALUES (1, %(phone)s, ARRAY[%(n)s::bigint], 'x',"
        " now(), now(), now(), jsonb_build_array(jsonb_build_object('phone', %(phone)s,"
        " 'excerpt', %(phone)s)), now() - interval '4 minutes')",
        {"phone": PHONE, "n": int(PHONE)},
    )
    # A message that was refused, with an answer that repeats the phone.
    database.execute(
        "INSERT INTO mailings (text, start_at, end_at, status, started_at, audience)"
        " VALUES ('Hi', now(), now() + interval '1 hour', 'running', now(), 1) RETURNING id"
    )
    mailing_id = value(database)
    for table in ("messages", "batches", "attempts"):
        database.execute(f"CREATE TABLE IF NOT EXISTS {table}_test PARTITION OF {table} DEFAULT")
    database.execute(
        "INSERT INTO batches (mailing_id, id, first_id, last_id, size, pending, failed, timezone)"
        " VALUES (%(m)s, 1, 1, 1, 1, 0, 1, 'UTC');"
        "INSERT INTO messages (mailing_id, id, client_id, batch_id, status)"
        " VALUES (%(m)s, 1, %(c)s, 1, 'failed')",
        {"m": mailing_id, "c": client_id},
    )
    insert_attempt(database, mailing_id)
    return client_id


def insert_attempt(database: Cursor, mailing_id: int) -> None:
    database.execute(
        "INSERT INTO attempts (mailing_id, message_id, at, outcome, reason, latency_ms, excerpt,"
        " phone, text) VALUES (%s, 1, clock_timestamp(), 'rejected', 'http_422', 1, %s, %s, %s)",
        (mailing_id, f"bad phone +{PHONE}", int(PHONE), f"Dear {PHONE}"),
    )


def let_settle(database: Cursor) -> None:
    """Let the time pass after which the second search is due."""
    database.execute(
        "UPDATE erasures SET requested_at = requested_at - %s * interval '1 second'",
        (SETTLE_SECONDS + 1,),
    )


def test_a_deleted_clients_phone_is_in_no_table_and_no_key(
    client: FlaskClient, database: Cursor, worker: Database, redis_url: str
) -> None:
    client_id = make_traces(client, database)
    tables = find_in_postgresql(database, PHONE)
    assert {"clients", "mailings", "test_sends", "rejected_rows", "idempotency_keys"} <= tables
    assert {"imports", "import_changes"} <= tables
    assert any(table.startswith("attempts") for table in tables)

    assert client.delete(f"/api/v1/clients/{client_id}").status_code == 204
    sweep_erasures(worker)
    # All that was stored before is erased by the first search, a second after the deletion.
    assert find_in_postgresql(database, PHONE) == {"erasures"} | EXCEPTIONS

    # What arrives after the deletion: the late answer to a request that was being sent.
    database.execute("SELECT max(id) FROM mailings")
    insert_attempt(database, value(database))
    sweep_erasures(worker)
    let_settle(database)
    database.execute("UPDATE imports SET status = 'finished', rows_done = rows_total"
                     " WHERE status = 'running'")  # fmt: skip
    sweep_erasures(worker)
    assert find_in_postgresql(database, PHONE) == EXCEPTIONS
    with Redis.from_url(redis_url) as redis:
        assert find_in_redis(redis, PHONE) == set()


def test_a_mailing_to_erased_phones_does_not_become_one_to_all(
    client: FlaskClient, database: Cursor
) -> None:
    """The mailings of the test before: their lists keep their length."""
    items = client.get("/api/v1/mailings").get_json()["items"]
    lists = [item["filter"]["phones"] for item in items if item["filter"]["phones"]]
    assert lists == [["erased"], [OTHER, "erased"]]
    found = client.post("/api/v1/mailings/preview", json={**mailing_body(), "filter": {}})
    assert found.status_code == 200
    again = client.post(
        "/api/v1/mailings",
        json={**mailing_body(), "filter": {"phones": ["erased"]}, "start_at": ahead(hours=1)},
    )
    assert again.status_code == 422


def test_a_file_sent_before_does_not_bring_an_erased_client_back(
    client: FlaskClient, database: Cursor, worker: Database
) -> None:
    phone, kept = "79167654322", "79167654323"
    body = {"phone": phone, "timezone": "Europe/Moscow"}
    client_id = client.post("/api/v1/clients", json=body).get_json()["id"]
    started = client.post(
        "/api/v1/clients/import",
        data=f"phone,timezone\n{phone},Asia/Omsk\n{kept},Asia/Omsk\n{phone},Asia/Tomsk\n",
        content_type="text/csv",
    ).get_json()
    assert started["status"] == "running", started
    assert client.delete(f"/api/v1/clients/{client_id}").status_code == 204
    let_settle(database)
    database.execute(
        "UPDATE imports SET created_at = (SELECT min(requested_at) FROM erasures)"
        " - interval '1 second' WHERE id = %s",
        (started["id"],),
    )
    sweep_erasures(worker)
    assert "erasures" in find_in_postgresql(database, phone), "the import is not merged yet"
    merged = 0
    while merged < 10:
        merged += 1
        with worker.transaction() as cursor:
            if merge_chunk(cursor, started["id"]) is None:
                break
    done = client.get(f"/api/v1/imports/{started['id']}").get_json()
    assert (done["status"], done["created"], done["rejected"]) == ("finished", 1, 2)
    sweep_erasures(worker)
    assert find_in_postgresql(database, phone) == set()
    # A file that is sent later is a new wish.
    later = client.post(
        "/api/v1/clients/import",
        data=f"phone,timezone\n{phone},Asia/Omsk\n",
        content_type="text/csv",
    ).get_json()
    for _ in range(3):
        with worker.transaction() as cursor:
            merge_chunk(cursor, later["id"])
    assert client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]


def test_nothing_of_a_later_client_is_erased(
    client: FlaskClient, database: Cursor, worker: Database
) -> None:
    """The phone belongs to another client soon after."""
    phone = "79167654324"
    body = {"phone": phone, "timezone": "Europe/Moscow"}
    client_id = client.post("/api/v1/clients", json=body).get_json()["id"]
    assert client.delete(f"/api/v1/clients/{client_id}").status_code == 204
    assert client.post("/api/v1/clients", json=body).status_code == 201
    mailing = client.post(
        "/api/v1/mailings", json={**mailing_body(), "filter": {"phones": [phone]}}
    ).get_json()
    sweep_erasures(worker)
    assert client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    found = client.get(f"/api/v1/mailings/{mailing['id']}").get_json()
    assert found["filter"]["phones"] == [phone]


def test_two_sweeps_at_once_do_not_wait_for_each_other(
    client: FlaskClient, database_url: str, worker: Database
) -> None:
    body = {"phone": "79167654325", "timezone": "Europe/Moscow"}
    client_id = client.post("/api/v1/clients", json=body).get_json()["id"]
    assert client.delete(f"/api/v1/clients/{client_id}").status_code == 204
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM erasures FOR UPDATE")
        with worker.autocommit() as other:
            other.execute("SET lock_timeout = '1s'")
        sweep_erasures(worker)
    connection.close()
