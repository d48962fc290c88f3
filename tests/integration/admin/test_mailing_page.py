"""The page of a mailing: cost with its currency, failures by reason, local hours, and charts."""

from datetime import datetime

import pytest
from flask import Flask

from api.admin.presenters import mailing_page
from api.admin.presenters.charts import build_chart, round_axis
from tests.integration.admin.test_forms import page
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app
from tests.support.fleet import Fleet, rejected


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url, SEGMENT_PRICE="1250.5", CURRENCY="RUB")


@pytest.fixture(scope="module")
def viewer(app: Flask) -> Signed:
    return Signed(app, "viewer")


def test_cost_is_shown_in_the_currency_of_the_reader(viewer: Signed, fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(2)
    fleet.query("UPDATE batches SET sent_segments = 2 WHERE mailing_id = %s", mailing_id)
    path = f"/admin/mailings/{mailing_id}"
    assert "RUB\xa02,501.00" in page(viewer, path)
    assert "2\xa0501,00\xa0₽" in page(viewer, path, "ru")
    fleet.ignore_earlier_mailings()  # their segments are made up


@pytest.mark.parametrize("read_messages", [10_000, 4])
def test_failures_are_grouped_by_reason(
    viewer: Signed, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, read_messages: int
) -> None:
    monkeypatch.setattr(mailing_page, "MAX_READ_MESSAGES", read_messages)
    mailing_id = fleet.add_launched_mailing(8, batch_size=2)
    for _ in range(4):
        worker = fleet.claim_batch(mailing_id)
        worker.finish(reports=[rejected(id_) for id_ in worker.ids])
    fleet.query(
        "UPDATE messages SET reason = 'rejected: http_403' WHERE mailing_id = %s"
        " AND id = (SELECT max(id) FROM messages WHERE mailing_id = %s)",
        *(mailing_id, mailing_id),
    )
    shown = page(viewer, f"/admin/mailings/{mailing_id}?status=failed")
    found = shown[shown.index('<ul class="failures">') :]
    found = found[: found.index("</ul>")]
    if read_messages == 4:  # half of the batches are read
        assert "≈ " in found
        assert "estimated from a sample" in shown
    else:
        assert "<strong>7</strong> × <span>refused by the provider" in found
        assert "<strong>1</strong> × <span>refused by the provider: HTTP 403" in found


@pytest.mark.parametrize("read_messages", [10_000, 0])
def test_delivery_by_zone_and_local_hour(
    viewer: Signed, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, read_messages: int
) -> None:
    """Of a large mailing one message stands for its batch, with the batch's count."""
    monkeypatch.setattr(mailing_page, "MAX_READ_MESSAGES", read_messages)
    fleet.add_clients(4, ("Asia/Kolkata", "Europe/Moscow"), tag=f"hours {read_messages}")
    mailing_id = fleet.add_mailing(tags=[f"hours {read_messages}"])
    fleet.launch_mailing(mailing_id)
    for _ in range(2):
        worker = fleet.claim_batch(mailing_id)
        worker.finish(accepted=worker.ids)
    fleet.query(
        "UPDATE messages SET sent_at = '2026-11-02T06:40Z' WHERE mailing_id = %s", mailing_id
    )
    shown = page(viewer, f"/admin/mailings/{mailing_id}")
    assert "Asia/Kolkata, 12:00–13:00: 2" in shown  # UTC+5:30
    assert "Europe/Moscow, 09:00–10:00: 2" in shown
    assert "Asia/Kolkata, 11:00–12:00: 0" in shown
    assert "Messages accepted by the provider, over time" in shown
    assert ("estimated from a sample" in shown) == (read_messages == 0)


def test_the_value_axis_ends_with_a_round_even_number() -> None:
    assert [round_axis(n) for n in (0, 1, 3, 9, 10, 11, 435, 1435, 99_999)] == [
        *(2, 2, 4, 10, 10, 20, 600, 2000, 100_000)
    ]
    slot = datetime(2026, 11, 1)
    chart = build_chart([slot], [{"at": slot, "status": "sent", "n": 1000}], ("sent",))
    assert chart["ticks"] == [1000, 500, 0]
    assert chart["columns"][0]["rects"] == [("sent", 0.0, 100.0)]
