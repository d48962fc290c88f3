"""Events of mailings are written with the change of state, and told by e-mail once."""

import threading
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from shared.config.settings import ReportSettings
from shared.report.notifications import (
    find_due_notifications,
    record_late_mailings,
    send_notification,
)
from tests.support.fleet import Fleet, rejected
from tests.support.mail_server import MailServer
from tests.support.waiting import wait_for
from worker.maintenance.daily_report import send_reports

ANNA, OLEG, VERA = "anna@example.com", "oleg@example.com", "vera@example.com"


@pytest.fixture(autouse=True)
def clean_notifications(fleet: Fleet) -> Iterator[None]:
    fleet.query("TRUNCATE notifications")
    yield
    fleet.query("DELETE FROM policies WHERE version > 1")


@pytest.fixture
def server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


def make_settings(fleet: Fleet, server: MailServer, **more: Any) -> ReportSettings:
    values = {
        "database_url": fleet.url,
        "smtp_url": server.url,
        "report_from": "Mailings <n@example.com>",
        "report_timezone": "Europe/Moscow",
        "public_url": "https://mailings.example.com",
        **more,
    }
    return ReportSettings.model_validate(values)


def set_addresses(fleet: Fleet, *addresses: str) -> None:
    """Make a new policy that notifies these addresses."""
    fleet.query(
        "INSERT INTO policies (version, notify) SELECT max(version) + 1, %s FROM policies",
        list(addresses),
    )


def set_author(fleet: Fleet, mailing_id: int, email: str, verified: bool = True) -> None:
    """Record that a person with this e-mail created the mailing."""
    issuer = "https://id.example.com"
    fleet.query(
        "INSERT INTO people (issuer, subject, name, email, email_verified)"
        " VALUES (%s, %s, 'Name', %s, %s)",
        *(issuer, f"subject {mailing_id}", email, verified),
    )
    fleet.query(
        "INSERT INTO audit_log (actor, action, entity, entity_id)"
        " VALUES (%s, 'created', 'mailing', %s)",
        *(f"person:{issuer}#subject {mailing_id}", mailing_id),
    )


def pause(fleet: Fleet, mailing_id: int, reason: str) -> None:
    fleet.query(
        "UPDATE mailings SET status = 'paused', pause_reason = %s WHERE id = %s", reason, mailing_id
    )


def read_events(fleet: Fleet, mailing_id: int) -> list[tuple[str, dict[str, Any]]]:
    return fleet.query(
        "SELECT kind, details FROM notifications WHERE mailing_id = %s ORDER BY id", mailing_id
    )


def send_due(fleet: Fleet, settings: ReportSettings) -> list[str]:
    due = find_due_notifications(fleet.db.transaction, settings)
    return [send_notification(fleet.db.transaction, settings, each) for each in due]


def read_mail(server: MailServer, number: int = 0) -> tuple[EmailMessage, str, str]:
    """Return a received mail, its plain text and its HTML."""
    _, mail = server.messages[number]
    parts = [mail.get_body([kind]) for kind in ("plain", "html")]
    text, html = [part.get_content().replace("\r\n", "\n") if part else "" for part in parts]
    return mail, text, html


def test_pauses_by_rules_are_events_and_those_of_people_are_not(fleet: Fleet) -> None:
    for reason in ("refusals", "audience_limit", "budget", "manual"):
        mailing_id = fleet.add_launched_mailing(1)
        pause(fleet, mailing_id, reason)
        expected = [] if reason == "manual" else [("paused", {"pause_reason": reason})]
        assert read_events(fleet, mailing_id) == expected


def test_an_event_is_rolled_back_with_the_change_of_state(fleet: Fleet) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    fleet.query("BEGIN")
    pause(fleet, mailing_id, "budget")
    assert len(read_events(fleet, mailing_id)) == 1
    fleet.query("ROLLBACK")
    assert read_events(fleet, mailing_id) == []


def test_a_finished_mailing_is_an_event_if_it_has_recipients(fleet: Fleet) -> None:
    def finish(mailing_id: int) -> list[tuple[str, dict[str, Any]]]:
        worker = fleet.claim_batch(mailing_id)
        worker.finish(worker.ids)
        assert fleet.settle_mailing(mailing_id) == "finished"
        return read_events(fleet, mailing_id)

    assert finish(fleet.add_launched_mailing(2)) == []
    of_a_person = fleet.add_launched_mailing(2)
    set_author(fleet, of_a_person, VERA)
    assert finish(of_a_person) == [("finished", {})]
    set_addresses(fleet, ANNA)
    assert finish(fleet.add_launched_mailing(2)) == [("finished", {})]
    cancelled = fleet.add_launched_mailing(2)
    fleet.cancel_mailing(cancelled)
    fleet.apply_mailing_state(cancelled)
    assert fleet.settle_mailing(cancelled) == "cancelled"
    assert read_events(fleet, cancelled) == []


def test_the_author_and_the_policys_addresses_are_told_once(
    fleet: Fleet, server: MailServer
) -> None:
    set_addresses(fleet, ANNA, OLEG)
    mailing_id = fleet.add_launched_mailing(5, name="Spring\nsale")
    set_author(fleet, mailing_id, "OLEG@example.com")
    worker = fleet.claim_batch(mailing_id)
    worker.record(worker.ids[:1], map(rejected, worker.ids[1:4]))
    pause(fleet, mailing_id, "refusals")
    settings = make_settings(fleet, server)
    assert send_due(fleet, settings) == ["sent"]
    assert send_due(fleet, settings) == []
    assert sorted(server.messages[0][0]) == [ANNA, OLEG]
    mail, text, html = read_mail(server)
    assert mail["Subject"] == "“Spring sale” is paused: the provider refuses its messages"
    for content in (text, html):
        assert "the provider refuses too many of its messages" in content
        assert f"https://mailings.example.com/admin/mailings/{mailing_id}" in content
    assert "Audience: 5\nAccepted: 1\nFailed: 3\nPending: 1\n" in text


def test_an_unverified_author_is_not_told(fleet: Fleet, server: MailServer) -> None:
    mailing_id = fleet.add_launched_mailing(1)
    set_author(fleet, mailing_id, VERA, verified=False)
    pause(fleet, mailing_id, "budget")
    assert send_due(fleet, make_settings(fleet, server)) == ["skipped"]
    assert not server.messages


@pytest.mark.parametrize("email", ["oleg@пример.рф", "a@example.com, b@example.com", "oleg"])
def test_an_authors_address_that_no_mail_can_have_stops_no_mail_to_others(
    fleet: Fleet, server: MailServer, email: str
) -> None:
    set_addresses(fleet, ANNA)
    mailing_id = fleet.add_launched_mailing(1)
    set_author(fleet, mailing_id, email)
    pause(fleet, mailing_id, "budget")
    assert send_due(fleet, make_settings(fleet, server)) == ["sent"]
    assert server.messages[0][0] == [ANNA]


def test_concurrent_processes_send_an_event_once(fleet: Fleet, server: MailServer) -> None:
    set_addresses(fleet, ANNA)
    pause(fleet, fleet.add_launched_mailing(1), "budget")
    settings = make_settings(fleet, server)
    (due,) = find_due_notifications(fleet.db.transaction, settings)
    results: list[str] = []

    def send() -> None:
        with Fleet(fleet.url) as another:
            results.append(send_notification(another.db.transaction, settings, due))

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    assert sorted(results) == ["not due"] * 3 + ["sent"]
    assert server.received == 1


def test_a_mail_is_retried_and_skipped_after_a_day(fleet: Fleet, server: MailServer) -> None:
    set_addresses(fleet, ANNA)
    pause(fleet, fleet.add_launched_mailing(1), "budget")
    settings = make_settings(fleet, server, smtp_url="smtp://127.0.0.1:9?starttls=never")
    assert send_due(fleet, settings) == ["failed"]
    assert send_due(fleet, settings) == [], "it waits for a minute"
    fleet.query("UPDATE notifications SET due_at = now(), created_at = now() - interval '25 h'")
    assert send_due(fleet, make_settings(fleet, server)) == []
    assert fleet.query_value("SELECT status FROM notifications") == "skipped"
    assert not server.messages


def test_a_sender_that_died_leaves_the_mail_in_doubt(fleet: Fleet, server: MailServer) -> None:
    set_addresses(fleet, ANNA)
    pause(fleet, fleet.add_launched_mailing(1), "budget")
    fleet.query("UPDATE notifications SET status = 'handing_over', due_at = now(), attempts = 1")
    assert send_due(fleet, make_settings(fleet, server)) == []
    assert fleet.query_value("SELECT status FROM notifications") == "in_doubt"


def test_a_mailing_that_will_be_late_is_told_once_for_each_end(
    fleet: Fleet, server: MailServer
) -> None:
    set_addresses(fleet, ANNA)
    settings = make_settings(fleet, server)
    slow, young, quick = (fleet.add_launched_mailing(200) for _ in range(3))
    fleet.query(
        "UPDATE mailings SET started_at = now() - interval '5 min',"
        " end_at = now() + interval '10 min' WHERE id = ANY (%s)",
        [slow, quick],
    )
    fleet.query("UPDATE mailings SET end_at = now() + interval '10 min' WHERE id = %s", young)
    worker = fleet.claim_batch(slow)
    worker.finish(worker.ids[:10])  # 2 a minute: 190 take 95 minutes
    worker = fleet.claim_batch(quick)
    worker.finish(worker.ids[:120])  # 24 a minute: 80 take 4 minutes
    for _ in range(2):
        record_late_mailings(fleet.db.transaction, settings)
    assert [len(read_events(fleet, each)) for each in (slow, young, quick)] == [1, 0, 0]
    (kind, details) = read_events(fleet, slow)[0]
    assert (kind, details["due"], details["never"]) == ("late", 190, 0)
    assert send_due(fleet, settings) == ["sent"]
    mail, text, _ = read_mail(server)
    assert mail["Subject"] == "“Hello” will not finish before its end"
    assert "190 messages are due, 2 a minute are leaving." in text
    fleet.query("UPDATE mailings SET end_at = now() + interval '20 min' WHERE id = %s", slow)
    record_late_mailings(fleet.db.transaction, settings)
    assert len(read_events(fleet, slow)) == 2
    for each in (slow, young, quick):
        fleet.cancel_mailing(each)


def test_nothing_is_due_without_a_mail_server(fleet: Fleet, server: MailServer) -> None:
    set_addresses(fleet, ANNA)
    pause(fleet, fleet.add_launched_mailing(1), "budget")
    assert (
        find_due_notifications(fleet.db.transaction, make_settings(fleet, server, smtp_url=None))
        == []
    )


def test_the_report_process_sends_notifications_without_recipients_of_a_report(
    fleet: Fleet, server: MailServer
) -> None:
    set_addresses(fleet, ANNA)
    pause(fleet, fleet.add_launched_mailing(1), "budget")
    stopping = threading.Event()
    settings = make_settings(fleet, server)
    process = threading.Thread(target=send_reports, args=(settings, stopping))
    process.start()
    try:
        wait_for(lambda: server.messages, 60, "the mail")
    finally:
        stopping.set()
        process.join(60)
    assert not process.is_alive()
    assert [recipients for recipients, _ in server.messages] == [[ANNA]]
    assert fleet.query_value("SELECT status FROM notifications") == "sent"
