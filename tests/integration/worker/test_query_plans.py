"""Plans of the frequent statements: one partition each, and no sequential scans of big tables."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api.clients.service import CREATE, GET
from shared.db import mailing_counts, message_segments, status_changes
from shared.db.prepared_statements import PreparedStatement
from shared.db.rows import fetch_one_row
from tests.support.fleet import TAKEOVER_SECONDS, Fleet
from worker.dispatch import budget_claims, claim_queries
from worker.recording import queries

BIG = 20_000


@pytest.fixture(scope="module")
def plans(module_fleet: Fleet) -> "Plans":
    return Plans(module_fleet)


class Plans:
    """A mailing big enough for its plans to matter, with partitions before and after its own."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        fleet.add_clients(BIG, ("Europe/Moscow", "Asia/Omsk"))
        for _ in range(2):
            self.in_new_partition("unused")
        self.mailing_id = self.in_new_partition("")
        self.in_new_partition("unused")
        fleet.query("ANALYZE clients, mailings, minutes")
        worker = fleet.claim_batch(self.mailing_id)
        worker.record(worker.ids[:100])
        self.worker = worker
        (self.partition,) = fleet.query(
            "SELECT first_mailing_id FROM partition_ranges"
            " WHERE %s BETWEEN first_mailing_id AND until_mailing_id - 1",
            self.mailing_id,
        )[0]
        assert fleet.query_value("SELECT count(*) FROM partition_ranges") >= 3

    def in_new_partition(self, tag: str) -> int:
        fleet = self.fleet
        first = fleet.query_value("SELECT coalesce(max(until_mailing_id), 1) FROM partition_ranges")
        mailing_id = fleet.add_mailing(id=first, tags=[tag])
        fleet.launch_mailing(mailing_id)
        return mailing_id

    def check(self, statement: str | PreparedStatement, values: Any) -> None:
        """Assert that only the mailing's partition is read, and not sequentially."""
        with self.fleet.db.transaction() as cursor:
            if isinstance(statement, PreparedStatement):
                statement.run(cursor, values)
                statement = statement.execute
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
            plan = fetch_one_row(cursor)[0]
            cursor.connection.rollback()
        plan = plan if isinstance(plan, list) else json.loads(plan)
        scans = list(nodes(plan[0]["Plan"]))
        # What is changed names its parent; the partitions are below it.
        touched = {
            node["Relation Name"]
            for node in scans
            if "Relation Name" in node and node["Node Type"] != "ModifyTable"
        }
        partitioned = {
            name for name in touched if name.startswith(("messages", "batches", "attempts"))
        }
        assert partitioned, f"none of the big tables is read: {touched}"
        other_partitions = {n for n in partitioned if not n.endswith(f"_p{self.partition}")}
        assert not other_partitions, (
            f"it looks into partitions of other mailings: {other_partitions}"
        )
        for node in scans:
            if node.get("Node Type") == "Seq Scan":
                name = node["Relation Name"]
                # A week's batches of one mailing are a page or two; messages and attempts are not.
                assert not name.startswith(("messages", "attempts")), f"{name} is read as a whole"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_claim_uses_indexes(plans: Plans) -> None:
    plans.check(
        claim_queries.CLAIM_BATCH,
        {"mailing": plans.mailing_id, "lease": TAKEOVER_SECONDS, "end_margin": 0.0},
    )


def test_reserving_segments_uses_an_index(plans: Plans) -> None:
    claimed = plans.worker.claim
    values = {"mailing": plans.mailing_id, "batch": claimed.batch_id, "segments": 5}
    plans.check(budget_claims.RESERVE, values)


@pytest.mark.parametrize(
    "statement", claim_queries.PENDING_MESSAGES.values(), ids=lambda statement: statement.name
)
def test_reading_pending_messages_uses_indexes(plans: Plans, statement: PreparedStatement) -> None:
    claimed = plans.worker.claim
    plans.check(
        statement,
        {
            "mailing": plans.mailing_id,
            "batch": claimed.batch_id,
            "first": claimed.first_id,
            "last": claimed.last_id,
        },
    )


def test_locking_batches_uses_indexes(plans: Plans) -> None:
    ids = f"{{{plans.worker.batch_id}}}"
    plans.check(queries.LOCK_BATCHES, {"mailing": plans.mailing_id, "ids": ids})


def test_accepting_messages_uses_indexes(plans: Plans) -> None:
    ids = plans.worker.ids[100:300]
    values = {
        "mailing": plans.mailing_id,
        "first": min(ids),
        "last": max(ids),
        "batch": plans.worker.batch_id,
        "times": f"{{{','.join([str(time.time())] * len(ids))}}}",
    }
    plans.check(queries.ACCEPT_MESSAGES, values)
    segments = {"segments": f"{{{','.join(['1'] * len(ids))}}}"}
    plans.check(queries.ACCEPT_PERSONAL_MESSAGES, values | segments)


def test_recording_without_shortcut_uses_indexes(plans: Plans) -> None:
    ids = plans.worker.ids[100:300]
    plans.check(queries.READ_MESSAGES, (plans.mailing_id, ids))
    n = len(ids)
    nothing = [None] * n
    where = (plans.mailing_id, min(ids), max(ids))
    plans.check(
        queries.UPDATE_MESSAGES,
        (ids, ["failed"] * n, [1] * n, [False] * n, ["x"] * n, nothing, nothing, *where),
    )


def test_updating_batches_uses_indexes(plans: Plans) -> None:
    zero = "{0}"
    plans.check(
        queries.UPDATE_BATCHES,
        {
            "mailing": plans.mailing_id,
            "lease": 20,
            "id": f"{{{plans.worker.batch_id}}}",
            **dict.fromkeys((*queries.BATCH_COUNTS, "number"), zero),
            **dict.fromkeys(("has_attempts", "held", "released", "backoff"), "{false}"),
            "delay": "{0}",
            "opens": "{NULL}",
        },
    )


def test_ending_messages_and_marking_doubts_use_indexes(plans: Plans) -> None:
    claimed = plans.worker.claim
    values = {
        "mailing": plans.mailing_id,
        "batch": claimed.batch_id,
        "first": claimed.first_id,
        "last": claimed.last_id,
        "ids": None,
        "status": "expired",
        "reason": "",
    }
    plans.check(status_changes.END_PENDING_MESSAGES, values)
    plans.check(status_changes.FIND_UNDOUBTED, values)
    ids = [row.message_id for row in claimed.rows]
    found = {"ids": ids, "segments": [1] * len(ids)}
    plans.check(status_changes.MARK_IN_DOUBT, values | found)
    plans.check(message_segments.READ_TEXTS, {"mailing": plans.mailing_id, "ids": ids})


def test_reading_the_counts_of_a_mailing_uses_indexes(plans: Plans) -> None:
    plans.check(mailing_counts.ONE_MAILING, {"mailing": plans.mailing_id})


@pytest.mark.parametrize("statement", [GET, CREATE], ids=lambda each: each.name)
def test_clients_are_found_by_index(plans: Plans, statement: PreparedStatement) -> None:
    """Generic plans are made once per connection, possibly for an empty table."""
    person = {"id": 1, "phone": 79990000000, "operator_code": "999", "operator_code_given": False}
    person |= {"tag": "", "timezone": "Europe/Moscow", "attributes": "{}"}
    who = {"actor": "token:x", "request_id": None, "entity": "client"}
    with plans.fleet.db.transaction() as cursor:
        statement.run(cursor, person | who)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement.execute}", person | who)
        (plan,) = fetch_one_row(cursor)[0]
        cursor.connection.rollback()
    assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan["Plan"])}


def test_the_check_rejects_plans_that_read_too_much(plans: Plans) -> None:
    """The tests above rely on this."""
    with pytest.raises(AssertionError, match="other mailings"):
        plans.check("SELECT * FROM messages WHERE id = %s", (plans.worker.ids[0],))
    with pytest.raises(AssertionError, match="as a whole"):
        plans.check(
            "SELECT * FROM messages WHERE mailing_id = %s AND attempts = 7", (plans.mailing_id,)
        )
