"""The search of logs in the formats of collectors, and what log lines must not contain."""

import io
import json
import logging
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
import structlog

from api.cli.log_search import LogQuery, LogSearch, parse_since
from shared.logging import log_config, redaction
from tests.support.programs import require_program
from tests.support.prometheus import SHIPPED

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECRET = "a-secret-of-ours-77"


def line(second: int, event: str, **fields: Any) -> str:
    ts = (NOW + timedelta(seconds=second)).isoformat().replace("+00:00", ".000Z")
    return json.dumps({"ts": ts, "level": "info", "event": event, "service": "x", **fields})


LINES = [
    "dispatch-1 | " + line(5, "message.attempt", mailing_id=17, message_id=101, batch_id=3),
    line(1, "mailing.created", mailing_id=17, request_id="r-1"),
    "2026-11-23T12:00:02Z stdout F "
    + line(2, "launch.chunk", mailing_id=17, first_message_id=100, last_message_id=599),
    line(4, "batch.claimed", mailing_id=17, batch_id=3),
    line(4, "batch.claimed", mailing_id=17, batch_id=4),
    line(9, "message.expired", mailing_id=17, message_ids=[101, 102], client_ids=[42, 43]),
    line(3, "client.created", client_id=42, request_id="r-2"),
    line(6, "message.attempt", mailing_id=18, message_id=1010, client_id=421),
    "Traceback (most recent call last):",
    '{"broken": ',
    '{"ts": 1}',
    "",
]


def search_logs(**query: Any) -> list[str]:
    search = LogSearch(LogQuery(**query))
    search.read_lines(LINES)
    return [line["event"] for line in search.sorted_lines()]


def test_lines_about_a_mailing_are_found() -> None:
    assert search_logs(mailing=17) == [
        "mailing.created",
        "launch.chunk",
        "batch.claimed",
        "batch.claimed",
        "message.attempt",
        "message.expired",
    ]


def test_lines_about_a_message_and_its_batch_are_found() -> None:
    assert search_logs(message=101) == [
        "launch.chunk",
        "batch.claimed",
        "message.attempt",
        "message.expired",
    ]
    assert search_logs(message=600) == []


def test_lines_that_list_a_client_are_found() -> None:
    assert search_logs(client=42) == ["client.created", "message.expired"]


def test_line_must_match_all_given_ids() -> None:
    assert search_logs(request="r-1") == ["mailing.created"]
    assert search_logs(mailing=17, client=43) == ["message.expired"]
    assert search_logs(mailing=17, since=NOW + timedelta(seconds=5)) == [
        "message.attempt",
        "message.expired",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("1d", NOW - timedelta(days=1)),
        ("2026-11-23T10:00:00+03:00", datetime(2026, 11, 23, 7, tzinfo=UTC)),
        ("2026-11-23T10:00", datetime(2026, 11, 23, 10, tzinfo=UTC)),
    ],
)
def test_since_accepts_durations_and_instants(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the logs have written since, as JSON lines."""
    output = io.StringIO()
    monkeypatch.setattr(log_config, "STDOUT", output)
    redaction.register_secrets([SECRET, "postgresql://u:pass%40word9@h/d"])
    handlers = logging.getLogger().handlers[:]
    log_config.configure_logging("test")
    yield lambda: [json.loads(each) for each in output.getvalue().splitlines()]
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def test_lines_of_every_logger_contain_no_secrets(written: Any) -> None:
    log = structlog.get_logger()
    log.info("client.created", client_id=79161234567, detail="Key (phone)=(79161234567) exists")
    logging.getLogger("some.library").warning("to %s with %s", "79161234567", SECRET)
    log.info("x", a=["Authorization: Bearer abc.def-123456", {"b": "pass@word9 pass%40word9"}])
    quoted = "refused\nDETAIL:  Failing row contains (1, 79161234567, My text)."
    try:
        raise psycopg2.Error(quoted)
    except psycopg2.Error:
        log.exception("api.defect")
    first, second, third, fourth = written()
    assert first["client_id"] == 79161234567
    assert first["detail"] == "Key (phone)=(7916***4567) exists"
    assert second["event"] == "library.some.library"
    assert second["message"] == "to 7916***4567 with [secret]"
    assert third["a"] == ["Authorization: Bearer [secret]", {"b": "[secret] [secret]"}]
    assert "My text" not in str(fourth)
    assert fourth["exception"].endswith("refused")


TEXT = 'Ваш код 12345, "никому"\n не говорите'


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ('{"code":2,"message":"no route"}', '{"code":2,"message":"no route"}'),
        ('{"to":"79161234567"}', '{"to":"7916***4567"}'),
        ("bad text: Ваш код 12345, and more", None),
        (json.dumps({"text": TEXT})[:60], None),
    ],
)
def test_response_that_repeats_the_text_is_not_logged(answer: str, shown: str | None) -> None:
    assert redaction.redact_answer(answer, TEXT) == (
        shown or "[withheld: it repeats the message's text]"
    )


@pytest.mark.parametrize(
    "what",
    [
        ("check", "rules", "alerts.yml", "slo.yml"),
        ("test", "rules", "alerts.test.yml", "slo.test.yml"),
    ],
)
def test_promtool_accepts_the_alert_rules(what: tuple[str, ...]) -> None:
    done = subprocess.run(
        [require_program("promtool"), *what],
        cwd=SHIPPED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
