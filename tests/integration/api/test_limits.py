"""Limits of mailings over the API, and the reason of a pause."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.mailings.schemas import MailingAnswer
from tests.integration.api.test_mailings import set_status
from tests.integration.conftest import mailing_body, value

URL = "/api/v1/mailings"
Create = Callable[..., dict[str, Any]]
LIMITS = {
    "max_audience": 100_000,
    "stop_when": {"refused_share": 0.3, "min_answers": 100},
    "budget": {"day": {"segments": 5000}, "month": {"segments": 90_000}},
}


def test_limits_are_returned_and_changed(client: FlaskClient) -> None:
    answer = client.post(URL, json=mailing_body() | LIMITS)
    assert answer.status_code == 201, answer.text
    created = answer.get_json()
    MailingAnswer.model_validate_json(answer.data)
    assert {name: created[name] for name in LIMITS} == LIMITS
    address = f"{URL}/{created['id']}"
    changes = {"max_audience": None, "stop_when": None, "budget": {"day": {"segments": 1}}}
    changed = client.patch(address, json=changes)
    assert {name: changed.get_json()[name] for name in LIMITS} == changes
    assert changed.headers["ETag"] == '"2"'
    assert client.patch(address, json=changes).headers["ETag"] == '"2"'


@pytest.mark.parametrize(
    ("limits", "pointer", "code"),
    [
        ({"max_audience": 0}, "/max_audience", "greater_than_equal"),
        ({"stop_when": {"refused_share": 1.5, "min_answers": 1}}, "/stop_when/refused_share", ""),
        ({"stop_when": {"refused_share": 0.5}}, "/stop_when/min_answers", "missing"),
        ({"stop_when": {"refused_share": "1", "min_answers": 1}}, "/stop_when", "float_type"),
        ({"budget": {}}, "/budget", "budget_empty"),
        ({"budget": {"day": {}}}, "/budget/day", "budget_unit"),
        ({"budget": {"day": {"segments": 1, "amount": "1"}}}, "/budget/day", "budget_unit"),
        ({"budget": {"day": {"amount": "1.234"}}}, "/budget/day/amount", "amount_format"),
        ({"budget": {"day": {"amount": "1.50"}}}, "/budget/day/amount", "segment_price_missing"),
    ],
    ids=str,
)
def test_limits_of_the_wrong_shape_are_refused(
    client: FlaskClient, new_mailing: Create, limits: dict[str, Any], pointer: str, code: str
) -> None:
    address = f"{URL}/{new_mailing()['id']}"
    for answer in (
        client.post(URL, json=mailing_body() | limits),
        client.patch(address, json=limits),
    ):
        assert answer.status_code == 422, answer.text
        (error,) = answer.get_json()["errors"]
        assert error["pointer"].startswith(pointer)
        assert error["code"] == (code or error["code"])


def test_a_pause_has_a_reason_whichever_version_of_the_code_writes(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    """Code that does not know the column pauses and resumes by the status alone."""
    mailing_id = new_mailing()["id"]

    def reason() -> Any:
        database.execute("SELECT pause_reason FROM mailings WHERE id = %s", (mailing_id,))
        return value(database)

    set_status(database, mailing_id, "paused")
    assert reason() == "manual"
    assert client.get(f"{URL}/{mailing_id}").get_json()["pause_reason"] == "manual"
    database.execute("UPDATE mailings SET pause_reason = 'budget' WHERE id = %s", (mailing_id,))
    assert reason() == "budget"
    set_status(database, mailing_id, "running")
    assert reason() is None
    assert client.post(f"{URL}/{mailing_id}/pause").get_json()["pause_reason"] == "manual"
    assert client.post(f"{URL}/{mailing_id}/resume").get_json()["pause_reason"] is None
