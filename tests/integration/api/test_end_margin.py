"""END_MARGIN in the API: which mailings it refuses, and what previews and pages say."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.integration.conftest import ahead, mailing_body, make_app, make_client
from tests.support.fleet import Fleet

MARGIN = 3600


@pytest.fixture(scope="module")
def client(database_url: str, redis_url: str) -> FlaskClient:
    return make_client(make_app(database_url, redis_url, END_MARGIN=str(MARGIN)))


def create(client: FlaskClient, **fields: Any) -> Any:
    return client.post("/api/v1/mailings", json={**mailing_body(), **fields})


def assert_refused(answer: Any) -> None:
    assert answer.status_code == 422
    (error,) = answer.get_json()["errors"]
    assert (error["code"], error["pointer"]) == ("within_end_margin", "/end_at")
    assert "3600 seconds" in error["detail"]


def test_mailing_must_be_longer_than_the_margin(client: FlaskClient) -> None:
    assert_refused(
        create(client, start_at=ahead(seconds=7200), end_at=ahead(seconds=7200 + MARGIN - 60))
    )
    assert_refused(create(client, start_at=ahead(seconds=-7200), end_at=ahead(seconds=MARGIN - 60)))
    answer = create(client, start_at=ahead(seconds=7200), end_at=ahead(seconds=7200 + MARGIN + 60))
    assert answer.status_code == 201


def test_change_of_the_times_respects_the_margin(client: FlaskClient) -> None:
    start, end = ahead(seconds=7200), ahead(seconds=7200 + 2 * MARGIN)
    mailing = create(client, start_at=start, end_at=end).get_json()
    path = f"/api/v1/mailings/{mailing['id']}"
    assert_refused(client.patch(path, json={"end_at": ahead(seconds=7200 + MARGIN - 60)}))
    assert_refused(client.patch(path, json={"start_at": ahead(seconds=7200 + MARGIN + 60)}))
    assert client.patch(path, json={"name": "renamed"}).status_code == 200


def test_actions_are_refused_in_the_margin(client: FlaskClient, fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1, ends_in=MARGIN - 60)
    path = f"/api/v1/mailings/{mailing_id}"
    assert client.patch(path, json={"name": "of before the margin"}).status_code == 200
    assert client.post(f"{path}/pause").status_code == 200
    answer = client.post(f"{path}/resume")
    assert answer.status_code == 409
    assert "END_MARGIN (3600 s)" in answer.get_json()["detail"]


def test_window_that_opens_in_the_margin_never_opens(
    client: FlaskClient, new_client: Callable[..., Any]
) -> None:
    new_client(tag="margin", timezone="UTC")
    opens = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=3)
    window = {"from": f"{opens:%H:%M}", "to": f"{opens + timedelta(hours=2):%H:%M}"}

    def preview(end_at: datetime) -> Any:
        body = mailing_body() | {
            "filter": {"tags": ["margin"]},
            "window": window,
            "start_at": ahead(seconds=0),
            "end_at": end_at.isoformat(),
        }
        answer = client.post("/api/v1/mailings/preview", json=body)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    before = preview(opens + timedelta(seconds=MARGIN - 60))
    assert before["by_timezone"][0]["opens_at"] is None
    (warning,) = [w for w in before["warnings"] if w["code"] == "window_never_opens"]
    assert "END_MARGIN (3600 s)" in warning["detail"]
    after = preview(opens + timedelta(seconds=MARGIN + 60))
    assert after["by_timezone"][0]["opens_at"] is not None
