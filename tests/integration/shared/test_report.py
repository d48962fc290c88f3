"""The daily report against a real mail server and a real database."""

import csv
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
from click.testing import Result

from api.cli.reports import report_commands
from shared.config.settings import ReportSettings
from shared.db.status_changes import cancel_messages
from shared.domain.statuses import MessageStatus, Reason
from shared.report import mail as mail_module
from shared.report.daily import DayNotOver, find_due_days, read_figures, send_report
from shared.report.figures import STATUSES as STATES
from shared.report.figures import read_day_figures
from tests.integration.conftest import make_app
from tests.support.fleet import Fleet, rejected
from tests.support.mail_server import MailServer
from tests.support.raw_server import write_certificate
from tests.support.waiting import COMMAND_SECONDS, wait_for
from worker.dispatch import claim_queries
from worker.maintenance import daily_report
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.circuit_breaker_rules import FAILURE_THRESHOLD
from worker.provider.outcomes import Outcome
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.recording.batch_report import BatchReport
from worker.recording.state_machine import MessageReport
from worker.runtime.database import Database

ROOT = Path(__file__).parents[3]
DAY = 86400
ANNA, OLEG = "anna@example.com", "oleg@example.com"
# A time zone in which it is about noon, so that no day ends while the tests run.
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@pytest.fixture(autouse=True)
def empty_reports(fleet: Fleet) -> None:
    fleet.query("TRUNCATE daily_reports, breaker_openings")
    # An old report, so that this is not a new installation.
    fleet.query(
        "INSERT INTO daily_reports (day, status, sent_at) VALUES ('2020-01-01', 'sent', now())"
    )


@pytest.fixture
def server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def today(fleet: Fleet) -> date:
    day: date = fleet.query_value("SELECT (now() AT TIME ZONE %s)::date", ZONE)
    return day


@pytest.fixture
def yesterday(today: date) -> date:
    return today - timedelta(days=1)


def make_settings(fleet: Fleet, smtp_url: str, *recipients: str) -> ReportSettings:
    return ReportSettings.model_validate(
        {
            "database_url": fleet.url,
            "smtp_url": smtp_url,
            "report_recipients": list(recipients) or [ANNA],
            "report_from": "Mailings <n@example.com>",
            "report_time": "00:00",
            "report_timezone": ZONE,
        }
    )


def read_report_row(fleet: Fleet, day: date) -> tuple[str, int, list[str], bool]:
    """Return status, attempts, the recipients served, and whether it is due again."""
    found = fleet.query(
        "SELECT status, attempts, served, due_at <= now() FROM daily_reports WHERE day = %s", day
    )
    status, attempts, served, due = found[0]
    return status, attempts, served, due


def make_due(fleet: Fleet, day: date) -> None:
    """End the wait for the next attempt."""
    fleet.query("UPDATE daily_reports SET due_at = now() WHERE day = %s", day)


# --- figures -----------------------------------------------------------------------------


def accept_messages(fleet: Fleet, mailing_id: int, *ages: float) -> None:
    """Record messages as accepted, one for each age in seconds."""
    worker = fleet.claim_batch(mailing_id)
    accepted = [(id_, time.time() - age) for id_, age in zip(worker.ids, ages, strict=False)]
    fleet.record_reports(
        BatchReport(mailing_id, worker.batch_id, worker.claim.token, 1, accepted, [], None)
    )
    worker.reports = 1
    worker.finish()


def count_accepted(fleet: Fleet, mailing_id: int, day: date) -> int:
    """Return the number of messages accepted on that local day."""
    found: int = fleet.query_value(
        """
        SELECT count(*) FROM messages
        WHERE mailing_id = %s AND (sent_at AT TIME ZONE %s)::date = %s
        """,
        mailing_id,
        ZONE,
        day,
    )
    return found


def test_figures_equal_counts_of_messages(fleet: Fleet, today: date) -> None:
    long = fleet.add_launched_mailing(12, name="Long")
    accept_messages(fleet, long, 2 * DAY, 2 * DAY, DAY, DAY, DAY, 1, 1, 1, 1)
    fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s AND pending > 0", long)
    worker = fleet.claim_batch(long)
    worker.finish(reports=[rejected(id_) for id_ in worker.ids[:2]])
    expired = fleet.add_launched_mailing(5)
    accept_messages(fleet, expired, 1, 1)
    fleet.end_mailing(expired)
    fleet.apply_mailing_state(expired)
    fleet.settle_mailing(expired)
    cancelled = fleet.add_launched_mailing(4)
    fleet.cancel_mailing(cancelled)
    fleet.apply_mailing_state(cancelled)
    mixed = fleet.add_launched_mailing(3)
    holder = fleet.claim_batch(mixed)
    opted_out, erased = holder.ids[:2]
    reason = Reason.OPTED_OUT
    ended = MessageReport(opted_out, final_status=MessageStatus.CANCELLED, reason=reason)
    holder.record(reports=[ended])
    with fleet.db.transaction() as cursor:
        cancel_messages(cursor, [(mixed, holder.claim.batch_id, erased)], reason)
    holder.finish()
    fleet.cancel_mailing(mixed)
    fleet.apply_mailing_state(mixed)
    fleet.check_totals()

    sums = dict.fromkeys(STATES, 0)
    for back in range(3):
        day = today - timedelta(days=back)
        found = read_figures(fleet.db.transaction, make_settings(fleet, "smtp://x"), day)
        by_id = {mailing.id: mailing for mailing in found.mailings}
        assert by_id[long].sent == count_accepted(fleet, long, day)
        for state in STATES:
            sums[state] += getattr(by_id[long], state)
        if back == 0:
            for id_ in (long, expired, cancelled):
                statuses = fleet.count_statuses(id_) | {"sent": count_accepted(fleet, id_, today)}
                for state in (*STATES, "pending"):
                    assert getattr(by_id[id_], state) == statuses.get(state, 0), (id_, state)
            assert found.reasons == [("rejected: 400", 2)]
            assert found.total("audience") == 24
            # Those who have opted out are a line of their own.
            assert (by_id[mixed].opted_out, by_id[mixed].cancelled) == (2, 1)
            assert found.total("expired") == 3
            assert by_id[long].share == pytest.approx(4 / 6)
            median = by_id[long].median
            assert median is not None
            assert 0 <= median < 60
        else:
            # At the end of that day, messages accepted later were pending.
            later = sum(count_accepted(fleet, long, today - timedelta(days=n)) for n in range(back))
            assert by_id[long].pending == 12 - 9 + later
            assert expired not in by_id
            assert not found.reasons
    assert sums == {state: fleet.count_statuses(long).get(state, 0) for state in STATES}


@pytest.mark.parametrize("window", [False, True])
def test_waits_are_the_percentiles_of_each_mailing(fleet: Fleet, today: date, window: bool) -> None:
    """With a window, a message waits from the window's opening, which was half an hour later."""
    mailings = {fleet.add_launched_mailing(100): scale for scale in (1, 7)}
    for mailing_id, scale in mailings.items():
        accept_messages(fleet, mailing_id, *(4000 - scale * n for n in range(1, 101)))
        fleet.query(
            "UPDATE batches SET created_at = now() - interval '4000 seconds' WHERE mailing_id = %s",
            mailing_id,
        )
        if window:
            fleet.query(
                """
                UPDATE batches SET created_at = created_at - interval '30 minutes'
                WHERE mailing_id = %(id)s;
                UPDATE mailings SET window_from = at, window_to = at + interval '2 hours'
                FROM (SELECT (now() - interval '4000 seconds') AT TIME ZONE 'Europe/Moscow' AS at)
                WHERE id = %(id)s
                """.replace("%(id)s", str(mailing_id))
            )
    with fleet.db.transaction() as cursor:
        figures = read_day_figures(cursor, today, ZONE)
    for mailing in figures.mailings:
        if mailing.id in mailings:
            scale = mailings[mailing.id]
            assert mailing.median == pytest.approx(50 * scale, abs=1)
            assert mailing.p95 == pytest.approx(95 * scale, abs=1)


class CountingCursor(psycopg2.extensions.cursor):
    """Counts the statements that it executes."""

    statements = 0

    def execute(self, *args: Any) -> None:
        self.statements += 1
        super().execute(*args)


def test_figures_take_the_same_statements_for_many_mailings(fleet: Fleet, today: date) -> None:
    counts = []
    for _ in range(3):
        windows: tuple[dict[str, Any], ...] = (
            {},
            {"window_from": "00:00", "window_to": "23:59"},
        )
        for window in windows:
            mailing_id = fleet.add_launched_mailing(3, **window)
            fleet.query("UPDATE batches SET due_at = now() WHERE mailing_id = %s", mailing_id)
            worker = fleet.claim_batch(mailing_id)
            worker.finish(worker.ids[:2], [rejected(worker.ids[2])])
        cursor = CountingCursor(fleet.connection)
        assert len(read_day_figures(cursor, today, ZONE).mailings) >= 2
        counts.append(cursor.statements)
    assert len(set(counts)) == 1


def record_outage() -> list[str]:
    """Return the openings that a breaker reports in an outage that outlasts the first probe."""
    breaker = CircuitBreaker(FailFastRedis(sending_loop_client("redis://127.0.0.1:1")))
    for now in (1e9, 2e9):  # at the second time, every wait is over
        for _ in range(FAILURE_THRESHOLD):
            breaker.record_outcome(Outcome.UNAVAILABLE)
        breaker.sync(now)
    assert breaker.state != "closed"
    return breaker.unsaved_openings


def test_late_mailings_and_breaker_openings_are_found(fleet: Fleet, today: date) -> None:
    fleet.query("UPDATE mailings SET status = 'paused' WHERE status = 'running'")
    paused, slow = fleet.add_launched_mailing(2), fleet.add_launched_mailing(3)
    fleet.query("UPDATE mailings SET status = 'paused' WHERE id = %s", paused)
    window = fleet.add_launched_mailing(2)
    fleet.query(
        "UPDATE batches SET due_at = now() + interval '2 hours' WHERE mailing_id = %s", window
    )
    later = fleet.add_launched_mailing(2)  # waits for its window, with enough time left
    fleet.query(
        "UPDATE batches SET due_at = now() + interval '1 hour' WHERE mailing_id = %s", later
    )
    fleet.query("UPDATE mailings SET end_at = now() + interval '2 hours' WHERE id = %s", later)
    for reason in record_outage():
        claim_queries.record_breaker_opening(fleet.db, reason)
    found = read_figures(fleet.db.transaction, make_settings(fleet, "smtp://x"), today)
    assert found.openings == [("unavailable", 1)]
    late = {item.id: item for item in found.late}
    assert late[paused].status == "paused"
    assert late[slow].due == 3
    assert late[slow].pace == 0
    assert late[window].never == 2
    assert late[window].due == 0
    assert later not in late


# --- sending once ----------------------------------------------------------------------------


def test_report_is_sent_once_to_all_recipients(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    config = make_settings(fleet, server.url, ANNA, OLEG)
    days = find_due_days(fleet.db.transaction, config)
    assert days == [yesterday - timedelta(days=n) for n in range(6, -1, -1)]
    mailing_id = fleet.add_launched_mailing(2, name="=Привет")
    accept_messages(fleet, mailing_id, DAY, DAY)
    assert send_report(fleet.db.transaction, config, yesterday) == "sent"
    assert send_report(fleet.db.transaction, config, yesterday) == "not due"
    assert send_report(fleet.db.transaction, config, yesterday, requested=True) == "not due"
    assert yesterday not in find_due_days(fleet.db.transaction, config)
    ((recipients, mail),) = server.messages
    assert recipients == [ANNA, OLEG]
    assert mail["message-id"] == f"<report-{yesterday}@example.com>"
    (table,) = mail.iter_attachments()
    rows = {row["mailing_id"]: row for row in csv.DictReader(io.StringIO(table.get_content()))}
    assert rows[str(mailing_id)]["sent"] == "2"
    assert rows[str(mailing_id)]["name"] == "'=Привет"


def test_concurrent_jobs_send_the_report_once(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def job() -> None:
        db = Database(fleet.url, "job")
        start.wait()
        outcomes.append(send_report(db.transaction, make_settings(fleet, server.url), yesterday))
        db.close()

    threads = [threading.Thread(target=job) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["not due"] * 5 + ["sent"]
    assert server.received == 1


def test_new_installation_has_no_report_due(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    fleet.query("TRUNCATE daily_reports")
    config = make_settings(fleet, server.url)
    assert find_due_days(fleet.db.transaction, config) == []
    assert send_report(fleet.db.transaction, config, yesterday) == "not due"
    assert send_report(fleet.db.transaction, config, yesterday, requested=True) == "sent"
    assert find_due_days(fleet.db.transaction, config) == []


def test_report_of_a_day_that_is_not_over_is_rejected(
    fleet: Fleet, server: MailServer, today: date
) -> None:
    with pytest.raises(DayNotOver):
        send_report(fleet.db.transaction, make_settings(fleet, server.url), today, requested=True)


def test_nothing_is_due_without_recipients_or_a_server(fleet: Fleet) -> None:
    for missing in ("smtp_url", "report_recipients"):
        config = make_settings(fleet, "smtp://127.0.0.1:1")
        setattr(config, missing, None)
        assert find_due_days(fleet.db.transaction, config) == []


# --- errors of the mail server -----------------------------------------------------------------


def test_refused_connection_is_retried_with_growing_waits(fleet: Fleet, yesterday: date) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = make_settings(fleet, f"smtp://127.0.0.1:{port}?starttls=never")
    waits = []
    for attempt in range(1, 9):
        assert send_report(fleet.db.transaction, config, yesterday) == "failed"
        assert read_report_row(fleet, yesterday) == ("waiting", attempt, [], False)
        assert yesterday not in find_due_days(fleet.db.transaction, config)
        waits.append(
            fleet.query_value(
                "SELECT extract(epoch FROM due_at - now())::int FROM daily_reports WHERE day = %s",
                yesterday,
            )
        )
        make_due(fleet, yesterday)
    assert waits == pytest.approx([60, 120, 240, 480, 960, 1920, 3600, 3600], abs=5)


def test_temporarily_rejected_message_is_retried(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    config = make_settings(fleet, server.url)
    server.replies = ["451 try again later"]
    assert send_report(fleet.db.transaction, config, yesterday) == "failed"
    assert send_report(fleet.db.transaction, config, yesterday) == "not due"
    assert send_report(fleet.db.transaction, config, yesterday, requested=True) == "sent"
    assert server.received == 2
    assert len(server.messages) == 1


def test_report_fails_if_every_recipient_is_refused(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    server.refusals = {ANNA: "550 no such person"}
    assert (
        send_report(fleet.db.transaction, make_settings(fleet, server.url), yesterday) == "failed"
    )
    error = fleet.query_value("SELECT error FROM daily_reports WHERE day = %s", yesterday)
    assert "550" in error
    assert server.received == 0


def test_permanently_refused_recipient_is_left_out(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    server.refusals = {ANNA: "550 no such person"}
    config = make_settings(fleet, server.url, ANNA, OLEG)
    assert send_report(fleet.db.transaction, config, yesterday) == "sent"
    assert [recipients for recipients, _ in server.messages] == [[OLEG]]
    error = fleet.query_value("SELECT error FROM daily_reports WHERE day = %s", yesterday)
    assert ANNA in error
    assert "550" in error


def test_temporarily_refused_recipient_is_retried_alone(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    server.refusals = {ANNA: "450 greylisted"}
    config = make_settings(fleet, server.url, ANNA, OLEG)
    assert send_report(fleet.db.transaction, config, yesterday) == "failed"
    assert read_report_row(fleet, yesterday) == ("waiting", 1, [OLEG], False)
    server.refusals = {}
    make_due(fleet, yesterday)
    assert send_report(fleet.db.transaction, config, yesterday) == "sent"
    assert [recipients for recipients, _ in server.messages] == [[OLEG], [ANNA]]


def test_connection_dropped_after_the_message_is_in_doubt_and_not_retried(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    config = make_settings(fleet, server.url)
    server.replies = ["drop"]
    assert send_report(fleet.db.transaction, config, yesterday) == "in doubt"
    make_due(fleet, yesterday)
    assert yesterday not in find_due_days(fleet.db.transaction, config)
    assert send_report(fleet.db.transaction, config, yesterday) == "not due"
    assert send_report(fleet.db.transaction, config, yesterday, requested=True) == "not due"
    assert server.received == 1


@pytest.mark.parametrize(("stage", "again"), [("connecting", "sent"), ("handing_over", "not due")])
def test_claim_of_a_dead_process_is_taken_over_or_in_doubt(
    fleet: Fleet, server: MailServer, yesterday: date, stage: str, again: str
) -> None:
    fleet.query(
        """
        INSERT INTO daily_reports (day, status, attempts, due_at)
        VALUES (%s, %s, 1, now() + interval '1 minute')
        """,
        yesterday,
        stage,
    )
    config = make_settings(fleet, server.url)
    assert yesterday not in find_due_days(fleet.db.transaction, config)
    assert send_report(fleet.db.transaction, config, yesterday) == "not due"
    make_due(fleet, yesterday)
    assert (yesterday in find_due_days(fleet.db.transaction, config)) == (again == "sent")
    assert send_report(fleet.db.transaction, config, yesterday) == again
    assert read_report_row(fleet, yesterday)[0] == ("sent" if again == "sent" else "in_doubt")


def test_process_that_lost_its_claim_sends_nothing(
    fleet: Fleet, server: MailServer, yesterday: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = mail_module._connect

    def connect_after_takeover(url: str) -> object:
        fleet.query("UPDATE daily_reports SET attempts = attempts + 1 WHERE day = %s", yesterday)
        return connect(url)

    monkeypatch.setattr(mail_module, "_connect", connect_after_takeover)
    assert (
        send_report(fleet.db.transaction, make_settings(fleet, server.url), yesterday) == "not due"
    )
    assert server.received == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"smtp://127.0.0.1:{listener.getsockname()[1]}?starttls=never"


def test_unresponsive_server_times_out(
    fleet: Fleet, silent: str, yesterday: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_module, "ANSWER_TIMEOUT", 0.3)
    began = time.monotonic()
    assert send_report(fleet.db.transaction, make_settings(fleet, silent), yesterday) == "failed"
    assert time.monotonic() - began < 2


def test_stopping_process_waits_only_briefly_for_the_mail_server(
    fleet: Fleet, silent: str, yesterday: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_module, "ANSWER_TIMEOUT", 2.0)
    monkeypatch.setattr(daily_report, "EXIT_WAIT_SECONDS", 0.1)
    # Of the other days there is nothing to send.
    fleet.query(
        "INSERT INTO daily_reports (day, status) SELECT %s::date - n, 'skipped'"
        " FROM generate_series(1, 7) AS n",
        yesterday,
    )
    stopping = threading.Event()
    process = threading.Thread(
        target=daily_report.send_reports, args=(make_settings(fleet, silent), stopping)
    )
    process.start()
    status = "SELECT status FROM daily_reports WHERE day = %s"
    wait_for(lambda: fleet.query(status, yesterday) == [("connecting",)], 10, "it connects")
    stopping.set()
    process.join(1.5)
    assert not process.is_alive()
    # The thread that was left behind gives the server up, and the report is tried again later.
    wait_for(lambda: read_report_row(fleet, yesterday)[0] == "waiting", 10, "it gives up")


# --- TLS and login -----------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    return write_certificate(tmp_path)


def test_starttls_and_login_are_used(
    fleet: Fleet, certificate: str, yesterday: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MailServer(certificate, login=("us er", "p@ss:word"))
    url = f"smtp://us%20er:p%40ss%3Aword@localhost:{server.port}"
    try:
        # The certificate is not trusted, so nothing is sent.
        assert send_report(fleet.db.transaction, make_settings(fleet, url), yesterday) == "failed"
        error = fleet.query_value("SELECT error FROM daily_reports WHERE day = %s", yesterday)
        assert "CERTIFICATE_VERIFY_FAILED" in error
        assert server.received == 0

        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        wrong = make_settings(fleet, url.replace("word", "ward"))
        assert send_report(fleet.db.transaction, wrong, yesterday, requested=True) == "failed"
        assert server.received == 0

        right = make_settings(fleet, url)
        assert send_report(fleet.db.transaction, right, yesterday, requested=True) == "sent"
        assert server.encrypted == [True]
    finally:
        server.stop()


def test_server_without_tls_is_rejected_unless_allowed(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    config = make_settings(fleet, f"smtp://127.0.0.1:{server.port}")
    assert send_report(fleet.db.transaction, config, yesterday) == "failed"
    assert server.received == 0


# --- commands ----------------------------------------------------------------------------------


def environment(config: ReportSettings) -> dict[str, str]:
    assert config.smtp_url is not None
    return {
        "DATABASE_URL": config.database_url,
        "SMTP_URL": config.smtp_url.get_secret_value(),
        "REPORT_RECIPIENTS": ",".join(config.report_recipients),
        "REPORT_TIMEZONE": ZONE,
        "REPORT_LANGUAGE": "ru",
    }


def test_command_prints_a_preview(fleet: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "report", "preview", "--day=2026-01-02"],
        cwd=ROOT,
        env={**os.environ, **environment(make_settings(fleet, "smtp://x"))},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert "В этот день рассылок не было." in done.stdout
    assert "Рассылки за 2 января 2026" in done.stdout


def test_command_sends_the_report_and_copies(
    fleet: Fleet, server: MailServer, yesterday: date
) -> None:
    config = make_settings(fleet, server.url)
    runner = make_app(fleet.url, "redis://127.0.0.1:1").test_cli_runner(env=environment(config))

    def send(*arguments: str) -> Result:
        return runner.invoke(report_commands, ["send", f"--day={yesterday}", *arguments])

    first, again, copy = send(), send(), send("--to", f"{OLEG},x@y.org")
    assert first.exit_code == 0, first.output
    assert again.exit_code == 1
    assert "--to sends a copy" in again.output
    assert copy.exit_code == 0, copy.output
    assert [recipients for recipients, _ in server.messages] == [[ANNA], [OLEG, "x@y.org"]]
    ids = [mail["message-id"] for _, mail in server.messages]
    assert ids[0] != ids[1]
