"""The page of the policy, the banner of the emergency stop, and the wait before a launch."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from tests.integration.admin.test_edit_conflicts import form_of
from tests.integration.admin.test_forms import page, submit
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import ahead, mailing_body, make_admin_app, make_client

PAGE = "/admin/policy"


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture
def admin(app: Flask) -> Signed:
    return Signed(app, "admin")


@pytest.fixture(autouse=True)
def no_rules(database: Cursor) -> Iterator[None]:
    """Begin and end with a policy whose rules are off, and without the emergency stop."""
    clear = """
    DELETE FROM policies WHERE version > 1; DELETE FROM budgets; DELETE FROM budget_days;
    UPDATE emergency_stop SET stopped_at = NULL, stopped_by = NULL;
    """
    database.execute(clear)
    yield
    database.execute(clear)


def read_rules(app: Flask) -> dict[str, Any]:
    rules: dict[str, Any] = make_client(app).get("/api/v1/policy").get_json()
    return rules


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


def test_the_policy_is_saved_and_shown_again(app: Flask, admin: Signed) -> None:
    given = {
        "max_audience": "100 000",
        "refused_share": "12,5",
        "min_answers": "200",
        "budget_day": "5000",
        "launch_delay": "30",
        "notify": "a@example.com, b@example.com",
    }
    assert submit(admin, PAGE, form_of(page(admin, PAGE)) | given).status_code == 303
    expected = {
        "max_audience": 100_000,
        "stop_when": {"refused_share": 0.125, "min_answers": 200},
        "budget": {"day": {"segments": 5000}},
        "launch_delay": 30,
        "notify": ["a@example.com", "b@example.com"],
        "version": 2,
    }
    assert read_rules(app).items() >= expected.items()
    shown = page(admin, PAGE)
    fields = form_of(shown)
    assert (fields["max_audience"], fields["refused_share"]) == ("100000", "12.5")
    assert "Launch delay: 30 seconds" in text_of(shown)
    # Saving the form as it is changes nothing.
    assert submit(admin, PAGE, fields).status_code == 303
    assert read_rules(app)["version"] == 2


def test_wrong_values_keep_the_form_and_name_the_field(app: Flask, admin: Signed) -> None:
    given = {"max_audience": "many", "budget_month": "0", "notify": "Ann", "refused_share": "3"}
    answer = submit(admin, PAGE, form_of(page(admin, PAGE)) | given)
    assert answer.status_code == 422
    for name in ("max_audience", "budget_month", "notify", "min_answers"):
        assert f'id="{name}-fault"' in answer.text, name
    assert 'value="many"' in answer.text
    assert read_rules(app)["version"] == 1


def test_of_two_changes_of_the_policy_the_second_is_compared(app: Flask, admin: Signed) -> None:
    mine = form_of(page(admin, PAGE)) | {"max_audience": "10"}
    theirs = form_of(page(admin, PAGE)) | {"launch_delay": "20"}
    assert submit(Signed(app, "admin"), PAGE, theirs).status_code == 303
    conflict = submit(admin, PAGE, mine)
    assert conflict.status_code == 409
    fields = form_of(conflict.text.replace("data-draft-step", "data-draft"))
    assert submit(admin, PAGE, fields | {"resolve": "merge"}).status_code == 303
    rules = read_rules(app)
    assert (rules["max_audience"], rules["launch_delay"]) == (10, 20)


def test_a_preview_shows_which_scheduled_mailings_would_pause(app: Flask, admin: Signed) -> None:
    client = make_client(app)
    for n in range(3):
        phone = f"7916888000{n}"
        body = {"phone": phone, "tag": "policy page", "timezone": "UTC"}
        client.put(f"/api/v1/clients/by-phone/{phone}", json=body)
    mailing = {**mailing_body(), "name": "Previewed", "filter": {"tags": ["policy page"]}}
    mailing_id = client.post("/api/v1/mailings", json=mailing).get_json()["id"]
    fields = form_of(page(admin, PAGE)) | {"max_audience": "2", "preview": "1"}
    shown = submit(admin, PAGE, fields)
    expected = r"Previewed .* more than 2 pauses, nothing is sent: at most 2 clients"
    assert re.search(expected, text_of(shown.text))
    assert read_rules(app)["version"] == 1
    shown = submit(admin, PAGE, fields | {"max_audience": "3"})
    assert re.search(r"Previewed .* 3 is sent", text_of(shown.text))
    client.post(f"/api/v1/mailings/{mailing_id}/cancel")


def test_a_preview_shows_what_budget_and_refusals_would_do(app: Flask, admin: Signed) -> None:
    client = make_client(app)
    for n in range(3):
        phone = f"7916888010{n}"
        body = {"phone": phone, "tag": "budget page", "timezone": "UTC"}
        client.put(f"/api/v1/clients/by-phone/{phone}", json=body)
    chosen = {"filter": {"tags": ["budget page"]}, "start_at": ahead(seconds=3000)}
    own = {
        "stop_when": {"refused_share": 0.5, "min_answers": 2},
        "budget": {"day": {"segments": 2}},
    }
    ids = [
        client.post("/api/v1/mailings", json=mailing_body() | chosen | more).get_json()["id"]
        for more in ({"name": "First"}, {"name": "Second"}, {"name": "Third"} | own)
    ]
    rules = {"budget_month": "5", "refused_share": "30", "min_answers": "100", "preview": "1"}
    shown = text_of(submit(admin, PAGE, form_of(page(admin, PAGE)) | rules).text)
    rule = "from 30 % on, once there are 100 answers"
    few = "has too few clients for that many answers: refusals never pause it"
    assert re.search(rf"First .* 3 is sent pauses on refusals: {rule} {few} Second", shown)
    # What the first mailing uses up is not left for the second.
    left = "pauses: the budget of the month has 2 SMS segments left for it"
    assert re.search(rf"Second .* 3 {left} pauses on refusals: {rule} {few} Third", shown)
    own_rule = "has its own rule on refusals: from 50 % on, once there are 2 answers"
    left = "pauses: the budget of the month has 0 SMS segments left for it"
    assert re.search(rf"Third .* more than 2 {left} {own_rule}", shown), shown
    for mailing_id in ids:
        client.post(f"/api/v1/mailings/{mailing_id}/cancel")


def test_a_preview_of_a_budget_counts_what_was_sent(
    app: Flask, admin: Signed, database: Cursor
) -> None:
    database.execute(
        "INSERT INTO minutes (mailing_id, minute, shard, status, count, sent_segments)"
        " VALUES (987654321, date_trunc('minute', now()), 0, 'sent', 7, 14)"
    )
    try:
        rules = {"budget_day": "10", "preview": "1"}
        shown = text_of(submit(admin, PAGE, form_of(page(admin, PAGE)) | rules).text)
    finally:
        database.execute("DELETE FROM minutes WHERE mailing_id = 987654321")
    assert re.search(r"Used up today \d+ of 10 SMS segments, nothing left", shown)
    assert "This budget is used up already" in shown
    money = {"budget_day": "10", "budget_day_unit": "amount", "preview": "1"}
    refused = submit(admin, PAGE, form_of(page(admin, PAGE)) | money)
    assert refused.status_code == 422
    assert "SEGMENT_PRICE" in refused.text


def test_workers_that_do_not_follow_the_rules_are_shown(
    app: Flask, admin: Signed, redis_url: str
) -> None:
    """As after a rollback: a rule cannot be set while one runs, but it can be started later."""
    redis, key = Redis.from_url(redis_url), "rq:worker:rolled back"
    warning = "1 worker of an older version runs, which does not follow these rules"
    redis.sadd("rq:workers:dispatch", key)
    try:
        redis.hset(key, "state", "busy")
        assert warning not in page(admin, PAGE)
        redis.delete(key)
        fields = form_of(page(admin, PAGE)) | {"max_audience": "10"}
        assert submit(admin, PAGE, fields).status_code == 303
        assert warning not in page(admin, PAGE)
        redis.hset(key, "state", "busy")
        assert warning in page(admin, PAGE)
    finally:
        redis.srem("rq:workers:dispatch", key)
        redis.delete(key)


def test_mails_that_were_not_delivered_are_shown(
    app: Flask, admin: Signed, database: Cursor
) -> None:
    assert "not delivered" not in page(admin, PAGE)
    database.execute(
        """
        INSERT INTO notifications (mailing_id, kind, status, attempts, error, created_at, sent_at)
        SELECT 987654321, 'paused', status, attempts, error, now() - minutes * interval '1 minute',
            CASE status WHEN 'sent' THEN now() END
        FROM (VALUES ('waiting', 3, 'timeout', 6), ('waiting', 0, NULL, 6),
            ('waiting', 1, 'timeout', 1), ('in_doubt', 1, 'broken', 60),
            ('skipped', 9, 'timeout', 1500), ('skipped', 1, NULL, 60), ('sent', 1, NULL, 60),
            ('sent', 1, 'a@example.com: 550', 60), ('in_doubt', 1, 'broken', 3000)
        ) AS t (status, attempts, error, minutes)
        """
    )
    try:
        shown, scraped = text_of(page(admin, PAGE)), make_client(app).get("/metrics").text
        fields = form_of(page(admin, PAGE)) | {"notify": "ops@example.com"}
        assert submit(admin, PAGE, fields).status_code == 303
        told = text_of(page(admin, PAGE))
    finally:
        database.execute("DELETE FROM notifications WHERE mailing_id = 987654321")
    expected = (
        "wait for the mail server: 1; perhaps delivered: 1; given up after a day: 1; "
        "refused for some addresses: 1"
    )
    assert expected in shown
    for state in ("waiting", "in_doubt", "given_up", "refused"):
        assert f'notification_mails_undelivered{{state="{state}"}} 1.0' in scraped, state
    # With addresses, a mail that was never attempted waits as well.
    assert "wait for the mail server: 2" in told
    assert "No mail is sent: SMTP_URL is not set." in told


def test_viewers_see_the_rules_and_cannot_change_them(app: Flask) -> None:
    viewer = Signed(app, "viewer")
    shown = page(viewer, PAGE)
    assert "Audience limit" in shown
    assert "Save changes" not in shown
    assert submit(viewer, PAGE, {}).status_code == 403


def test_every_page_has_a_banner_during_an_emergency_stop(app: Flask, admin: Signed) -> None:
    assert "Stop all sending" in page(admin, "/admin/")
    assert submit(admin, "/admin/policy/stop", {}).status_code == 303
    for path in ("/admin/", "/admin/clients", PAGE, "/admin/nothing-here"):
        assert "All sending is stopped." in page(admin, path), path
    assert "Вся отправка остановлена." in page(admin, "/admin/mailings", "ru")
    viewer = page(Signed(app, "viewer"), "/admin/")
    assert "An administrator can resume it." in viewer
    assert "confirm-resume-sending" not in viewer
    assert submit(admin, "/admin/policy/resume", {}).status_code == 303
    assert "All sending is stopped." not in page(admin, "/admin/")


def test_a_mailing_counts_down_to_its_launch(app: Flask, admin: Signed) -> None:
    fields = form_of(page(admin, PAGE)) | {"launch_delay": "600"}
    assert submit(admin, PAGE, fields).status_code == 303
    body = {**mailing_body(), "start_at": ahead(seconds=-1)}
    mailing_id = make_client(app).post("/api/v1/mailings", json=body).get_json()["id"]
    shown = page(admin, f"/admin/mailings/{mailing_id}")
    assert re.search(r"data-countdown>\(in (59\d|600) s\)", shown)
    assert "Stop it before it starts" in shown
    make_client(app).post(f"/api/v1/mailings/{mailing_id}/cancel")
    assert "data-countdown" not in page(admin, f"/admin/mailings/{mailing_id}")


def test_pages_of_a_mailing_say_why_it_is_paused(
    app: Flask, admin: Signed, database: Cursor
) -> None:
    body = {**mailing_body(), "max_audience": 10}
    mailing_id = make_client(app).post("/api/v1/mailings", json=body).get_json()["id"]
    database.execute(
        "UPDATE mailings SET status = 'paused', pause_reason = 'audience_limit', audience = 14,"
        " audience_limit = 10, started_at = now() WHERE id = %s",
        (mailing_id,),
    )
    assert "at least 14 clients, and 10 are permitted" in page(
        admin, f"/admin/mailings/{mailing_id}"
    )
    assert "too many recipients" in page(admin, "/admin/mailings")
    answer = submit(admin, f"/admin/mailings/{mailing_id}/resume", {}, follow_redirects=True)
    assert "It would still reach too many clients" in answer.text
    database.execute(
        "UPDATE mailings SET status = 'cancelled', finished_at = now() WHERE id = %s",
        (mailing_id,),
    )


def test_a_mailing_gets_an_audience_limit_of_its_own(app: Flask, admin: Signed) -> None:
    client = make_client(app)
    mailing_id = client.post("/api/v1/mailings", json=mailing_body()).get_json()["id"]
    path = f"/admin/mailings/{mailing_id}/edit"
    fields = form_of(page(admin, path))
    assert fields["max_audience"] == ""
    assert submit(admin, path, fields | {"max_audience": "1 500"}).status_code == 303
    assert client.get(f"/api/v1/mailings/{mailing_id}").get_json()["max_audience"] == 1500
    assert form_of(page(admin, path))["max_audience"] == "1500"
    client.post(f"/api/v1/mailings/{mailing_id}/cancel")


def test_a_mailing_gets_a_rule_on_refusals_of_its_own(app: Flask, admin: Signed) -> None:
    client = make_client(app)
    mailing_id = client.post("/api/v1/mailings", json=mailing_body()).get_json()["id"]
    path = f"/admin/mailings/{mailing_id}/edit"
    fields = form_of(page(admin, path))
    assert (fields["refused_share"], fields["min_answers"]) == ("", "")
    rule = {"refused_share": "12,5 %", "min_answers": "1 000"}
    assert submit(admin, path, fields | rule).status_code == 303
    stored = client.get(f"/api/v1/mailings/{mailing_id}").get_json()["stop_when"]
    assert stored == {"refused_share": 0.125, "min_answers": 1000}
    fields = form_of(page(admin, path))
    assert (fields["refused_share"], fields["min_answers"]) == ("12.5", "1000")
    assert "from 12.5 % on, once there are 1,000 answers" in page(
        admin, f"/admin/mailings/{mailing_id}"
    )
    refused = submit(admin, path, fields | {"min_answers": ""})
    assert refused.status_code == 422
    assert 'id="stop_when-fault"' in refused.text
    assert submit(admin, path, fields | dict.fromkeys(rule, "")).status_code == 303
    assert client.get(f"/api/v1/mailings/{mailing_id}").get_json()["stop_when"] is None
    client.post(f"/api/v1/mailings/{mailing_id}/cancel")


def test_a_mailing_gets_a_budget_of_its_own(app: Flask, admin: Signed) -> None:
    client = make_client(app)
    policy = form_of(page(admin, PAGE)) | {"budget_month": "1000000", "launch_delay": "600"}
    assert submit(admin, PAGE, policy).status_code == 303
    form = page(admin, "/admin/mailings/new")
    assert "Shared budget of a month: SMS segments: 1,000,000" in text_of(form)
    fields = {
        "text": "Hello",
        "tags": "nobody-has-this",
        "starts": "now",
        "end_at": ahead(hours=2)[:16],
        "zone": "UTC",
        "budget_day": "5 000",
    }
    refused = submit(admin, "/admin/mailings/new", fields | {"budget_month": "many"})
    assert refused.status_code == 422
    assert 'id="budget_month-fault"' in refused.text
    review = submit(admin, "/admin/mailings/new", fields)
    shown = text_of(review.text)
    assert "in 600 seconds, by the policy's launch delay" in shown
    assert "Budget of a day SMS segments: 5,000" in shown
    assert "Shared budget of a month SMS segments: 1,000,000 by the policy" in shown
    found = re.search(r'name="once" value="([^"]+)"', review.text)
    assert found
    confirmed = fields | {"confirmed": "yes", "once": found[1]}
    address = submit(admin, "/admin/mailings/new", confirmed).location
    mailing_id = address.rsplit("/", 1)[1]
    path = f"/admin/mailings/{mailing_id}"
    stored = client.get(f"/api/v1/mailings/{mailing_id}").get_json()
    assert stored["budget"] == {"day": {"segments": 5000}}
    shown = text_of(page(admin, path))
    assert "Shared budget of a month SMS segments: 1,000,000 by the policy" in shown
    assert "Used up today 0 of 5,000 SMS segments, 5,000 left" in shown
    # The form of the mailing, and of a copy, has it again, and saving it as it is changes nothing.
    assert form_of(page(admin, f"/admin/mailings/new?from={mailing_id}"))["budget_day"] == "5000"
    again = form_of(page(admin, f"{path}/edit"))
    assert submit(admin, f"{path}/edit", again).status_code == 303
    assert client.get(f"/api/v1/mailings/{mailing_id}").get_json() == stored
    # A form of an older version, or a draft of one, has no fields of the budget.
    old = {name: each for name, each in again.items() if not name.startswith("budget_")}
    assert submit(admin, f"{path}/edit", old | {"name": "Renamed"}).status_code == 303
    changed = client.get(f"/api/v1/mailings/{mailing_id}").get_json()
    assert (changed["name"], changed["budget"]) == ("Renamed", stored["budget"])
    again = form_of(page(admin, f"{path}/edit"))
    more = again | {"budget_day": "", "budget_month": "70"}
    assert submit(admin, f"{path}/edit", more).status_code == 303
    changed = client.get(f"/api/v1/mailings/{mailing_id}").get_json()
    assert changed["budget"] == {"month": {"segments": 70}}
    client.post(f"/api/v1/mailings/{mailing_id}/cancel")
