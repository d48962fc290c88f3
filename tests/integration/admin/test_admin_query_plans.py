"""Query plans of the admin UI: no page reads all messages of a large mailing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import event

from api.db import db
from api.mailings.messages import select_messages
from shared.db.rows import fetch_one_row
from shared.domain.statuses import MessageStatus
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_admin_app
from tests.integration.worker.test_query_plans import nodes
from tests.support.fleet import Fleet, rejected

BIG = 20_000
ZONES = ("Europe/Moscow", "Asia/Omsk")
Statements = list[tuple[str, Any]]


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def large(module_fleet: Fleet) -> int:
    """A running mailing with sent and failed messages, beside a finished one."""
    fleet = module_fleet
    fleet.add_clients(BIG, ZONES)
    small = fleet.add_mailing(tags=["unused"])
    fleet.launch_mailing(small)
    mailing_id = fleet.add_mailing(name="Large")
    fleet.launch_mailing(mailing_id)
    for _ in range(8):
        worker = fleet.claim_batch(mailing_id)
        worker.record(worker.ids[:100])
        worker.finish(reports=[rejected(id_) for id_ in worker.ids[100:]])
    fleet.query("ANALYZE")
    return mailing_id


@contextmanager
def recorded_statements(app: Flask) -> Iterator[Statements]:
    """Record the statements that the application sends inside the block."""
    seen: Statements = []

    def record_statement(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", record_statement)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", record_statement)


def check_plans(database_url: str, seen: Statements) -> set[str]:
    """Fail if a statement scans messages or attempts sequentially; return the tables read."""
    touched = set()
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        for statement, parameters in seen:
            if not statement.lstrip().upper().startswith(("SELECT", "WITH")):
                continue
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = cursor.fetchone()[0]  # type: ignore[index]
            plan = plan if isinstance(plan, list) else json.loads(plan)
            for node in nodes(plan[0]["Plan"]):
                table = node.get("Relation Name", "")
                touched.add(table.partition("_p")[0])
                # A mailing has few batches, but many messages and attempts.
                big = table.startswith(("messages", "attempts"))
                assert not (big and node["Node Type"] == "Seq Scan"), f"{table}: {statement}"
    connection.close()
    return touched


@pytest.mark.parametrize(
    "query",
    ["", "?status=failed", "?status=sent", "?status=pending&after=5000", "?phone=79000000007"],
)
def test_the_page_of_a_large_mailing(app: Flask, large: int, database_url: str, query: str) -> None:
    viewer = Signed(app, "viewer")
    with recorded_statements(app) as seen:
        page = viewer.client.get(f"/admin/mailings/{large}{query}", base_url=PUBLIC)
    assert page.status_code == 200
    assert "Large" in page.text
    assert {"messages", "batches", "minutes"} <= check_plans(database_url, seen)
    assert len(seen) < 25


@pytest.mark.parametrize(("descending", "start"), [(False, 0), (True, 2**63 - 1)])
def test_a_page_in_one_status_reads_few_batches(
    large: int, module_fleet: Fleet, descending: bool, start: int
) -> None:
    """All eight batches have sent messages, the first of them more than a page."""
    with module_fleet.db.transaction() as cursor:
        query = select_messages(frozenset({MessageStatus.SENT}), descending)
        for name, number in (("mailing_id", large), ("after", start), ("n", 26)):
            query = query.replace(f":{name}", str(number))
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
        (plan,) = fetch_one_row(cursor)[0]
    scans = [
        node
        for node in nodes(plan["Plan"])
        if node.get("Relation Name", "").startswith("messages") and node["Actual Loops"]
    ]
    assert scans
    assert max(node["Actual Loops"] for node in scans) <= 2


@pytest.mark.parametrize("path", ["/admin/", "/admin/mailings", "/admin/clients/1"])
def test_other_pages_beside_a_large_mailing(
    app: Flask, large: int, database_url: str, path: str
) -> None:
    viewer = Signed(app, "viewer")
    with recorded_statements(app) as seen:
        assert viewer.client.get(path, base_url=PUBLIC).status_code == 200
    assert seen
    check_plans(database_url, seen)


def test_a_sequential_scan_is_detected(large: int, database_url: str) -> None:
    """Check that the tests above can fail."""
    with pytest.raises(AssertionError, match="messages"):
        check_plans(database_url, [("SELECT count(*) FROM messages WHERE attempts = 7", None)])
