"""The undo of the last import: nothing is overwritten, and nothing that was used is undone."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.clients.import_undo import UNDOS
from shared.client_import.undo import undo_chunk
from tests.integration.conftest import value
from tests.support.fleet import Fleet
from worker.maintenance.import_undos import sweep_undos, undo_import_slice
from worker.maintenance.imports import merge_import_slice
from worker.runtime.database import Database

Import = Callable[..., dict[str, Any]]
KEPT = ("phone", "operator_code", "tag", "timezone", "attributes")
PREFIX = "7945"


@pytest.fixture
def phones(database: Cursor) -> list[str]:
    """Five phones that no client has."""
    numbers = [f"{PREFIX}000{n:04}" for n in range(5)]
    database.execute("DELETE FROM clients WHERE phone = ANY (%s::bigint[])", (numbers,))
    return numbers


@pytest.fixture
def run_import(client: FlaskClient, db: Database) -> Import:
    def upload_and_merge(*rows: str, query: str = "") -> dict[str, Any]:
        data = "\n".join(("phone;tag;timezone;city", *rows))
        answer = client.post(
            f"/api/v1/clients/import{query}", data=data.encode(), content_type="text/csv"
        )
        assert answer.status_code == 202, answer.text
        import_id = answer.get_json()["id"]
        while merge_import_slice(db, import_id):
            pass
        return read_import(client, import_id)

    return upload_and_merge


def read_import(client: FlaskClient, import_id: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/imports/{import_id}").get_json()
    return found


def find_client(client: FlaskClient, phone: str) -> dict[str, Any] | None:
    items = client.get(f"/api/v1/clients?phone={phone}").get_json()["items"]
    return items[0] if items else None


def create_client(client: FlaskClient, phone: str, **values: Any) -> dict[str, Any]:
    body = {"phone": phone, "timezone": "Europe/Moscow", **values}
    answer = client.post("/api/v1/clients", json=body)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.get_json()
    return created


def request_undo(client: FlaskClient, import_id: int, query: str = "") -> Any:
    return client.post(f"/api/v1/imports/{import_id}/undo{query}")


def finish_undo(client: FlaskClient, db: Database, import_id: int) -> tuple[int, int, int]:
    while undo_import_slice(db, import_id):
        pass
    found = read_import(client, import_id)["undo"]
    assert found["finished_at"] is not None
    return found["deleted"], found["restored"], found["kept"]


def assert_refused(answer: Any, code: str) -> dict[str, Any]:
    assert answer.status_code == 409, answer.text
    problem: dict[str, Any] = answer.get_json()
    assert problem["code"] == code
    return problem


def test_the_last_import_is_undone(
    client: FlaskClient,
    database: Cursor,
    db: Database,
    run_import: Import,
    phones: list[str],
) -> None:
    given = create_client(
        client, phones[0], tag="old", operator_code="495", attributes={"city": "Тула", "a": "1"}
    )
    derived = create_client(client, phones[1], tag="same")
    report = run_import(
        f"{phones[0]};new;Asia/Omsk;Омск",
        f"{phones[1]};same;Asia/Tokyo;",
        *(f"{phone};fresh;UTC;Уфа" for phone in phones[2:]),
        query="?file_name=C:%5Cfiles%5Cклиенты.csv",
    )
    assert (report["created"], report["updated"]) == (3, 2)
    assert report["created_by"] == "bootstrap"
    assert report["file_name"] == "клиенты.csv"
    assert report["undo_until"] is not None
    assert report["undo"] is None

    answer = request_undo(client, report["id"])
    assert answer.status_code == 202, answer.text
    assert answer.get_json()["undo"]["requested_by"] == "bootstrap"
    with db.transaction() as cursor:  # a chunk is cut anywhere
        assert undo_chunk(cursor, report["id"], 2) == (2, 0, 0)
    with db.transaction() as cursor:
        assert undo_chunk(cursor, report["id"], 2) == (1, 0, 0)
    with db.transaction() as cursor:
        assert undo_chunk(cursor, report["id"], 1) == (0, 1, 0)
    assert finish_undo(client, db, report["id"]) == (3, 2, 0)
    for before in (given, derived):
        now = find_client(client, before["phone"])
        assert now is not None
        assert [now[name] for name in KEPT] == [before[name] for name in KEPT]
    assert [find_client(client, phone) for phone in phones[2:]] == [None] * 3
    database.execute("SELECT max(version) FROM clients WHERE phone = %s", (int(phones[0]),))
    assert value(database) == 3
    database.execute(
        "SELECT count(*) FROM clients WHERE last_import_id = %(id)s OR"
        " id IN (SELECT client_id FROM import_changes WHERE import_id = %(id)s)",
        {"id": report["id"]},
    )
    assert value(database) == 0
    assert read_import(client, report["id"])["undo_until"] is None
    problem = assert_refused(request_undo(client, report["id"]), "import_undone")
    assert "requested at 20" in problem["detail"]
    entries = client.get(f"/api/v1/audit?entity=import&entity_id={report['id']}").get_json()
    assert [each["action"] for each in entries["items"]] == ["undone", "received"]


def test_an_import_whose_clients_a_mailing_has_used_is_not_undone(
    client: FlaskClient, fleet: Fleet, run_import: Import, phones: list[str]
) -> None:
    """Earlier mailings are no obstacle once they have ended; those that go on are."""
    create_client(client, phones[0], tag="undo-used")
    earlier = fleet.add_mailing(tags=["undo-used"])
    fleet.launch_mailing(earlier)
    worker = fleet.claim_batch(earlier)
    worker.finish(accepted=worker.ids)
    going_on = fleet.add_mailing(tags=["undo-used"])
    fleet.launch_mailing(going_on)
    rows = [f"{phone};undo-new;UTC;Омск" for phone in phones[:3]]
    report = run_import(*rows)
    later = fleet.add_mailing(tags=["undo-new"])
    fleet.launch_mailing(later)

    problem = assert_refused(request_undo(client, report["id"]), "import_used")
    assert problem["mailings"] == [{"id": going_on, "clients": 1}, {"id": later, "clients": 3}]
    assert problem["detail"].startswith(f"Mailing {going_on} has used 1 clients of this import")
    for mailing in (going_on, later):
        worker = fleet.claim_batch(mailing)
        worker.finish(accepted=worker.ids)
    assert_refused(request_undo(client, report["id"], "?keep_edited=true"), "import_used")
    assert read_import(client, report["id"])["undo"] is None
    assert [each["phone"] for each in (find_client(client, phone) for phone in phones[:3]) if each]


def test_what_was_edited_since_stays_as_it_is(
    client: FlaskClient, db: Database, run_import: Import, phones: list[str]
) -> None:
    for phone in phones[:2]:
        create_client(client, phone, tag="old")
    report = run_import(*(f"{phone};new;UTC;Омск" for phone in phones))
    for phone in phones[1:3]:
        found = find_client(client, phone)
        assert found is not None
        answer = client.patch(f"/api/v1/clients/{found['id']}", json={"tag": "mine"})
        assert answer.status_code == 200
    deleted = find_client(client, phones[4])
    assert deleted is not None
    assert client.delete(f"/api/v1/clients/{deleted['id']}").status_code == 204

    problem = assert_refused(request_undo(client, report["id"]), "clients_edited")
    assert problem["edited"] == 2
    assert request_undo(client, report["id"], "?keep_edited=true").status_code == 202
    assert finish_undo(client, db, report["id"]) == (1, 1, 2)
    tags = [found and found["tag"] for found in (find_client(client, p) for p in phones)]
    assert tags == ["old", "mine", "mine", None, None]


def test_what_is_used_or_edited_while_the_undo_goes_on_is_kept(
    client: FlaskClient, fleet: Fleet, db: Database, run_import: Import, phones: list[str]
) -> None:
    create_client(client, phones[0], tag="old")
    report = run_import(
        f"{phones[0]};undo-late;UTC;",
        f"{phones[1]};undo-late;UTC;",
        f"{phones[2]};undo-new;UTC;",
        f"{phones[3]};undo-new;UTC;",
    )
    assert request_undo(client, report["id"]).status_code == 202
    mailing = fleet.add_mailing(tags=["undo-late"])
    fleet.launch_mailing(mailing)
    edited = find_client(client, phones[2])
    assert edited is not None
    client.patch(f"/api/v1/clients/{edited['id']}", json={"tag": "mine"})
    assert finish_undo(client, db, report["id"]) == (1, 0, 3)
    tags = [found and found["tag"] for found in (find_client(client, p) for p in phones)]
    assert tags == ["undo-late", "undo-late", "mine", None, None]


def test_undos_beyond_the_bound_are_refused_and_can_be_requested_again(
    client: FlaskClient, run_import: Import, phones: list[str]
) -> None:
    """Each looks at the messages of all mailings since, and occupies a thread meanwhile."""
    report = run_import(f"{phones[0]};a;UTC;")
    leaves = [UNDOS.admit(f"other {n}") for n in range(UNDOS.per_process)]
    try:
        refused = request_undo(client, report["id"])
    finally:
        for leave in leaves:
            leave()
    assert (refused.status_code, refused.get_json()["code"]) == (429, "too_much_under_way")
    assert int(refused.headers["Retry-After"]) > 0
    assert request_undo(client, report["id"]).status_code == 202


def test_a_message_to_a_client_that_was_just_undone_is_cancelled(
    client: FlaskClient, fleet: Fleet, db: Database, run_import: Import, phones: list[str]
) -> None:
    """A launch may have read the client right before."""
    report = run_import(f"{phones[0]};undo-gone;UTC;")
    mailing = fleet.add_mailing(tags=["undo-gone"])
    fleet.launch_mailing(mailing)
    fleet.query("DELETE FROM clients WHERE phone = %s RETURNING id", int(phones[0]))
    worker = fleet.claim_batch(mailing)
    assert [row.phone for row in worker.claim.rows] == [None]
    worker.finish()
    assert report["created"] == 1


def test_only_the_last_import_that_is_finished_can_be_undone(
    client: FlaskClient, database: Cursor, db: Database, run_import: Import, phones: list[str]
) -> None:
    create_client(client, phones[0], tag="old")
    first = run_import(f"{phones[0]};new;UTC;")
    unchanged = run_import(f"{phones[0]};new;UTC;")
    assert unchanged["unchanged"] == 1
    assert read_import(client, first["id"])["undo_until"] is not None
    started = client.post(
        "/api/v1/clients/import",
        data=f"phone;timezone\n{phones[1]};UTC",
        content_type="text/csv",
    ).get_json()
    assert_refused(request_undo(client, started["id"]), "import_running")
    assert_refused(request_undo(client, first["id"]), "import_not_last")
    merge_import_slice(db, started["id"])
    problem = assert_refused(request_undo(client, first["id"]), "import_not_last")
    assert problem["import_id"] == started["id"]
    assert read_import(client, first["id"])["undo_until"] is None
    assert request_undo(client, 10**9).status_code == 404

    database.execute("UPDATE imports SET undoable = 0 WHERE id = %s", (started["id"],))
    assert_refused(request_undo(client, started["id"]), "undo_expired")
    database.execute("UPDATE imports SET undo_until = now() WHERE id = %s", (started["id"],))
    assert_refused(request_undo(client, started["id"]), "undo_expired")


class RecordingQueues:
    def __init__(self) -> None:
        self.undos: list[int] = []

    def enqueue_import_undo(self, import_id: int) -> bool:
        self.undos.append(import_id)
        return True


def test_the_sweep_continues_undos_and_deletes_earlier_values(
    client: FlaskClient, database: Cursor, db: Database, run_import: Import, phones: list[str]
) -> None:
    queues: Any = RecordingQueues()

    def count_changes(import_id: int) -> int:
        database.execute("SELECT count(*) FROM import_changes WHERE import_id = %s", (import_id,))
        return int(value(database))

    create_client(client, phones[0], tag="old")
    first = run_import(f"{phones[0]};new;UTC;")
    database.execute("UPDATE imports SET undo_until = NULL WHERE id < %s", (first["id"],))
    sweep_undos(db, queues)
    assert count_changes(first["id"]) == 1
    second = run_import(f"{phones[0]};newer;UTC;")
    sweep_undos(db, queues)
    sweep_undos(db, queues)
    assert (count_changes(first["id"]), count_changes(second["id"])) == (0, 1)

    assert request_undo(client, second["id"]).status_code == 202
    # Neither the period nor a later import ends an undo that has begun.
    run_import(f"{phones[1]};x;UTC;")
    database.execute(
        "UPDATE imports SET undo_until = now() WHERE id = %(id)s; UPDATE import_undos"
        " SET updated_at = now() - interval '6 seconds' WHERE import_id = %(id)s",
        {"id": second["id"]},
    )
    sweep_undos(db, queues)
    sweep_undos(db, queues)
    assert queues.undos == [second["id"]]
    assert finish_undo(client, db, second["id"]) == (0, 1, 0)
    found = find_client(client, phones[0])
    assert found is not None
    assert found["tag"] == "new"


def test_an_undo_needs_the_scope_of_an_import(client: FlaskClient) -> None:
    made = client.post("/api/v1/tokens", json={"name": "undo-reader", "scope": "read"}).get_json()
    token = {"Authorization": f"Bearer {made['token']}"}
    assert client.post("/api/v1/imports/1/undo", headers=token).status_code == 403
