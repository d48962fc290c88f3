"""Recipients who have opted out are counted apart, wherever the opt-out was noticed."""

import pytest
from flask.testing import FlaskClient

from shared.domain.statuses import MessageStatus, Reason
from tests.support.fleet import Fleet, rejected
from worker.recording.state_machine import MessageReport


def opt_out(client: FlaskClient, fleet: Fleet, client_id: int) -> None:
    phone = fleet.query_value("SELECT phone FROM clients WHERE id = %s", client_id)
    assert client.post("/api/v1/opt-outs", json={"phones": [str(phone)]}).status_code < 300


def read_opted_out(client: FlaskClient, mailing_id: int) -> tuple[int, int]:
    """Return how many of a mailing's recipients have opted out, and how many are cancelled."""
    found = client.get(f"/api/v1/mailings/{mailing_id}/statistics").get_json()
    return found["opted_out"], found["counts"]["cancelled"]


@pytest.mark.parametrize("launch", ["launch_mailing", "launch_small_mailings"])
def test_clients_who_opted_out_before_the_launch(
    client: FlaskClient, fleet: Fleet, launch: str
) -> None:
    ids = fleet.add_clients(3, tag=f"before {launch}")
    opt_out(client, fleet, ids[0])
    mailing_id = fleet.add_mailing(tags=[f"before {launch}"])
    if launch == "launch_mailing":
        fleet.launch_mailing(mailing_id)
    else:
        fleet.launch_small_mailings()
    assert read_opted_out(client, mailing_id) == (1, 1)
    fleet.cancel_mailing(mailing_id)
    fleet.apply_mailing_state(mailing_id)
    assert fleet.settle_mailing(mailing_id) == "cancelled"
    assert fleet.read_mailing(mailing_id)["cancelled_opted_out"] == 1
    assert read_opted_out(client, mailing_id) == (1, 3)


def test_opting_out_while_a_mailing_is_sent(client: FlaskClient, fleet: Fleet) -> None:
    """One opts out before the report, one is noticed by the worker, one is accepted late."""
    mailing_id = fleet.add_launched_mailing(4)
    worker = fleet.claim_batch(mailing_id)
    first, second, third, fourth = worker.ids
    opt_out(client, fleet, fleet.read_message(mailing_id, first)["client_id"])
    opt_out(client, fleet, fleet.read_message(mailing_id, second)["client_id"])
    assert read_opted_out(client, mailing_id) == (2, 2)
    noticed = MessageReport(third, None, MessageStatus.CANCELLED, Reason.OPTED_OUT)
    worker.finish(accepted=[second], reports=[noticed, rejected(fourth)])
    assert read_opted_out(client, mailing_id) == (2, 2)
    assert fleet.settle_mailing(mailing_id) == "finished"
    assert read_opted_out(client, mailing_id) == (2, 2)
    totals = client.get("/api/v1/statistics").get_json()["totals"]
    assert 2 <= totals["opted_out"] <= totals["counts"]["cancelled"]
