"""Excluding an earlier mailing is one operation on two sets, not a look-up for each client."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from api.mailings.preview import AUDIENCE, MAX_TAGS
from api.mailings.text_preview import CLIENTS_LACKING, EXAMPLE_COUNT, EXAMPLES, AudienceQuery
from shared.db.audience import AUDIENCE_CONDITION, audience_parameters
from shared.db.rows import fetch_one_row
from tests.integration.worker.test_query_plans import nodes
from tests.support.fleet import Fleet
from worker.launch.chunks import WRITE_CHUNK

CLIENTS = 20_000
SENT_BATCHES = 12
CHUNK_IDS = 1_000


@pytest.fixture(scope="module")
def earlier(module_fleet: Fleet) -> int:
    """A mailing to all clients, of which some were sent their message."""
    module_fleet.add_clients(CLIENTS)
    mailing_id = module_fleet.add_mailing()
    module_fleet.launch_mailing(mailing_id)
    for _ in range(SENT_BATCHES):
        worker = module_fleet.claim_batch(mailing_id)
        worker.finish(accepted=worker.ids)
    module_fleet.query("VACUUM ANALYZE clients, messages")
    return mailing_id


def explain(fleet: Fleet, statement: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
    with fleet.db.transaction() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
        (plan,) = fetch_one_row(cursor)[0]
        cursor.connection.rollback()
    return list(nodes(plan["Plan"]))


def read_messages(plan: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (node for node in plan if node.get("Alias") == "had")


@pytest.mark.parametrize("statement", [AUDIENCE, CLIENTS_LACKING], ids=["audience", "lacking"])
def test_previews_join_the_excluded_mailing(
    module_fleet: Fleet, earlier: int, statement: str
) -> None:
    values = {"max_tags": MAX_TAGS, "required": ["name"], "zones": ["Europe/Moscow"]}
    values |= audience_parameters([], [], [], {}, [earlier], [])
    query = AudienceQuery(AUDIENCE_CONDITION, values)
    plan = explain(module_fleet, query.select(statement), query.parameters)
    assert {"Anti", "Right Anti"} & {node.get("Join Type") for node in plan}
    assert max(node["Actual Loops"] for node in read_messages(plan)) < 10


def test_examples_begin_behind_those_who_are_excluded(module_fleet: Fleet, earlier: int) -> None:
    values = {"max_tags": MAX_TAGS, "required": [], "examples": EXAMPLE_COUNT}
    values |= audience_parameters([], [], [], {}, [earlier], [])
    query = AudienceQuery(AUDIENCE_CONDITION, values)
    with module_fleet.db.transaction() as cursor:
        cursor.execute(query.select(AUDIENCE), query.parameters)
        (first_id,) = (number for kind, _, number in cursor.fetchall() if kind == "first_id")
        values["first_id"] = first_id
        cursor.execute(query.select(EXAMPLES), query.parameters)
        examples = [client_id for client_id, _ in cursor.fetchall()]
    unsent = "SELECT client_id FROM messages WHERE mailing_id = %s AND status <> 'sent' ORDER BY 1"
    assert examples == [id_ for (id_,) in module_fleet.query(f"{unsent} LIMIT 5", earlier)]
    plan = explain(module_fleet, query.select(EXAMPLES), query.parameters)
    assert max(node["Actual Loops"] for node in read_messages(plan)) < 50


def test_chunks_join_their_part_of_the_excluded_mailing(module_fleet: Fleet, earlier: int) -> None:
    first = module_fleet.query_value("SELECT min(id) FROM clients")
    after, until = first + 2_000, first + 2_000 + CHUNK_IDS
    values = {"after": after, "until": until, "limit": CLIENTS, "batch_size": 500}
    values |= {"mailing": earlier + 1, "first_message_id": 10**15}
    values |= audience_parameters([], [], [], {}, [earlier], [], client_ids=(after, until))
    plan = explain(module_fleet, WRITE_CHUNK, values)
    assert {"Anti", "Right Anti"} & {node.get("Join Type") for node in plan}
    for node in read_messages(plan):
        assert node["Actual Loops"] < 10
        assert node["Actual Rows"] + node.get("Rows Removed by Filter", 0) <= CHUNK_IDS
