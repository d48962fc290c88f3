"""Real processes send one report a day, despite restarts and a flushed Redis."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from tests.support.mail_server import MailServer
from tests.support.system import System
from tests.support.waiting import wait_for

# A zone in which it is about noon now, so that no day ends while the test runs.
# The first transaction of the process has ended.
CHECKED = """
SELECT 1 FROM pg_stat_activity
WHERE application_name = 'notification-report' AND state = 'idle' AND query = 'COMMIT'
"""
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@pytest.fixture
def server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def system(server: MailServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory: Path = tmp_path_factory.mktemp("report")
    system = System(
        directory,
        dispatchers=0,
        SMTP_URL=server.url,
        REPORT_RECIPIENTS="anna@example.com",
        REPORT_FROM="Mailings <n@example.com>",
        REPORT_TIME="00:00",
        REPORT_TIMEZONE=ZONE,
    )
    try:
        yield system.start()
    finally:
        system.stop()


def test_flushed_redis_and_restarts_send_no_second_report(
    system: System, server: MailServer
) -> None:
    redis = Redis.from_url(system.valkey.url)
    system["report"].stop()
    # The days before yesterday have been sent: only yesterday's report is due.
    with system.database() as cursor:
        cursor.execute("TRUNCATE daily_reports")
        cursor.execute(
            "INSERT INTO daily_reports (day, status, sent_at)"
            " SELECT (now() AT TIME ZONE %s)::date - back, 'sent', now()"
            " FROM generate_series(2, 8) AS back",
            (ZONE,),
        )
    redis.flushall()
    system["report"].start()
    wait_for(lambda: server.messages, 30, "the report")
    all_sent = [("sent",)] * 8
    # A kill between the delivery and its record would leave the report in doubt.
    wait_for(lambda: system.query("SELECT status FROM daily_reports") == all_sent, 30, "its record")
    for _ in range(2):
        system["report"].kill()
        wait_for(lambda: not system.query(CHECKED), 10, "its connection is closed")
        system["report"].start()
        wait_for(lambda: system.query(CHECKED), 30, "it has looked for due reports")
    assert system["report"].stop() == 0
    assert server.received == 1
    assert system.query("SELECT status FROM daily_reports") == all_sent
