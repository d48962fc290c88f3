"""The page of a client: everything that has happened to it, and its opt-out with an undo."""

import json
from typing import Any

import pytest
from flask import Flask

from shared.client_import.merge import merge_chunk
from tests.integration.admin.test_forms import page, submit
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app
from tests.support.fleet import Fleet, unavailable


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture
def operator(app: Flask) -> Signed:
    return Signed(app, "operator")


def one_client(fleet: Fleet, **attributes: str) -> tuple[int, str]:
    """Add a client with a tag of its own."""
    (client_id,) = fleet.add_clients(1)
    tag = f"page {client_id}"
    fleet.query(
        "UPDATE clients SET tag = %s, attributes = %s::jsonb, updated_at = now() WHERE id = %s",
        tag,
        json.dumps(attributes),
        client_id,
    )
    return client_id, tag


def test_texts_are_shown_as_they_were_received(operator: Signed, fleet: Fleet) -> None:
    client_id, tag = one_client(fleet, name="Anna")
    first, second, third = (
        fleet.add_mailing(text=text, tags=[tag])
        for text in ("{name}, first version", "{name|Dear} retried", "plain")
    )
    for mailing_id in (first, second, third):
        fleet.launch_mailing(mailing_id)
    worker = fleet.claim_batch(first)
    worker.finish(accepted=worker.ids)
    # What was sent keeps its version when the text changes afterwards.
    fleet.query("INSERT INTO mailing_texts VALUES (%s, 2, 'second')", first)
    fleet.query("UPDATE mailings SET text = 'second', text_version = 2 WHERE id = %s", first)
    worker = fleet.claim_batch(second)
    worker.finish(reports=[unavailable(id_) for id_ in worker.ids])
    fleet.query("UPDATE attempts SET text = 'as it was tried' WHERE mailing_id = %s", second)
    shown = page(operator, f"/admin/clients/{client_id}")
    assert "Anna, first version" in shown
    assert '<p class="message-text small">second' not in shown
    assert "as it was tried" in shown
    assert '<p class="message-text small">plain' not in shown  # not sent yet
    assert "which have changed since" not in shown
    fleet.query("UPDATE clients SET attributes = '{}', updated_at = now() WHERE id = %s", client_id)
    assert "which have changed since" in page(operator, f"/admin/clients/{client_id}")
    shown = page(operator, f"/admin/mailings/{first}")
    assert "1 earlier text" in shown
    assert "{name}, first version" in shown
    assert "sent to 1 client" in shown


def test_an_opt_out_by_a_button_and_its_undo(app: Flask, operator: Signed, fleet: Fleet) -> None:
    client_id, tag = one_client(fleet)
    mailing_id = fleet.add_mailing(text="Hello", tags=[tag])
    fleet.launch_mailing(mailing_id)
    path = f"/admin/clients/{client_id}"
    assert submit(operator, f"{path}/opt-out", {}).status_code == 303
    shown = page(operator, path)
    assert "Nothing is sent to this phone since" in shown
    assert "the client has opted out" in shown  # why its message was cancelled
    for _ in range(2):  # the second changes nothing
        assert submit(operator, f"{path}/opt-in", {}).status_code == 303
    shown = page(operator, path)
    assert "Nothing is sent to this phone since" not in shown
    assert shown.count("Opt-out removed") == 1
    assert fleet.query_value("SELECT count(*) FROM opt_outs WHERE source = 'admin'") == 0
    assert page(Signed(app, "viewer"), path).count(f"{path}/opt-out") == 0


def test_edits_imports_and_test_sends_are_in_the_timeline(
    operator: Signed, fleet: Fleet, client: Any
) -> None:
    client_id, _tag = one_client(fleet)
    phone = str(fleet.query_value("SELECT phone FROM clients WHERE id = %s", client_id))
    found = client.patch(f"/api/v1/clients/{client_id}", json={"tag": "edited"})
    assert found.status_code == 200
    started = client.post(
        "/api/v1/clients/import",
        data=f"phone,tag,timezone\n{phone},imported,Europe/Moscow\n",
        headers={"Content-Type": "text/csv"},
    ).get_json()
    with fleet.db.transaction() as cursor:
        while merge_chunk(cursor, started["id"]) is not None:
            pass
    fleet.query(
        "INSERT INTO test_sends (first_message_id, text, phones, actor, expires_at, claimed_at)"
        " VALUES (1, 'A test for you', %s, 'bootstrap', now(), now())",
        [int(phone)],
    )
    shown = page(operator, f"/admin/clients/{client_id}")
    assert "Data changed by an import" in shown
    assert f"Import No. {started['id']}" in shown
    assert "A test for you" in shown
    assert shown.index("Test send") < shown.index("Data changed by an import")
    assert "Client added" in shown
    assert '<p class="small muted">Tag</p>' in shown
    assert "bootstrap" in shown
