"""Pages about clients whose time zone this installation does not know."""

import pytest
from flask import Flask

from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app
from tests.support.fleet import Fleet

UNKNOWN = "Mars/Phobos"


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


def test_every_page_shows_an_unknown_time_zone(app: Flask, fleet: Fleet) -> None:
    (client_id,) = fleet.add_clients(1, (UNKNOWN,), "mars")
    mailing_id = fleet.add_mailing(tags=["mars"], window_from="09:00", window_to="21:00")
    fleet.launch_mailing(mailing_id)
    person = Signed(app, "operator")
    for path in (
        f"/admin/mailings/{mailing_id}",
        f"/admin/clients/{client_id}",
        f"/admin/clients/{client_id}/edit",
        "/admin/clients",
        "/admin/",
        "/admin/live",
    ):
        assert person.get(path) == 200, path
    page = person.client.get(f"/admin/mailings/{mailing_id}", base_url="http://127.0.0.1:5998").text
    assert UNKNOWN in page
    assert "time zone not known" in page
