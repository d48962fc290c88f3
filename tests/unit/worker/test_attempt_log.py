"""The log line of an accepted attempt equals what structlog would have written."""

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from shared.domain.templates import compile_stored_template
from shared.logging import log_config
from worker.dispatch.attempt_log import AttemptLog, attempt_fields
from worker.dispatch.claimed_batch import ClaimedBatch, MessageRow
from worker.dispatch.leased_batch import LeasedBatch, OutgoingMessage
from worker.provider.http.exchange import Result
from worker.provider.outcomes import Outcome
from worker.runtime.clock import DatabaseClock

AT = 1_795_000_000.9996


def make(request_id: str | None, outcome: Outcome, latency: float) -> tuple[Any, Any, Any]:
    row = MessageRow(99001, 42, 79161234567, 2, None, None, False, None)
    claim = ClaimedBatch(
        mailing_id=17,
        batch_id=5,
        token=1,
        attempt=0,
        first_id=99001,
        last_id=99001,
        timezone="Europe/Moscow",
        has_attempts=False,
        taken_over=False,
        end_at=datetime.now(UTC) + timedelta(hours=1),
        rate_limit=None,
        request_id=request_id,
        text="Hello",
        window=None,
        template=compile_stored_template("Hello"),
        lease_start=0.0,
        rows=[row],
    )
    batch = LeasedBatch(claim, DatabaseClock(), 60.0, 11.0)
    batch.rows = deque()
    request = OutgoingMessage(99001, b"{}", request_id)
    request.batch = batch
    request.row, request.text, request.probe = row, None, False
    result = Result(request, outcome, 200, latency, None, '{"code":0}', "code_0", 1.0, AT)
    return batch, request, result


@pytest.mark.parametrize("request_id", [None, "ask-1", 'quote"and\\slash'])
@pytest.mark.parametrize("latency", [0.0, 0.00004, 0.00006, 0.0123456, 1.0, 9.99999])
def test_both_ways_to_format_the_line_agree(request_id: str | None, latency: float) -> None:
    batch, request, result = make(request_id, Outcome.ACCEPTED, latency)
    written: list[Any] = []
    log = AttemptLog(written.extend)
    log.add(batch, request, result)
    log.write()
    log.write()  # nothing is written twice
    (line,) = written
    assert isinstance(line, bytes)
    assert orjson.loads(line) == orjson.loads(orjson.dumps(attempt_fields(batch, request, result)))


def test_a_request_that_was_not_accepted_is_logged_with_its_reason() -> None:
    batch, request, result = make(None, Outcome.DECLINED, 0.01)
    written: list[Any] = []
    log = AttemptLog(written.extend)
    log.add(batch, request, result)
    log.write()
    assert written[0]["level"] == "warning"
    assert written[0]["reason"] == "code_0"
    assert "answer" in written[0]


def test_timestamps_are_truncated_to_milliseconds() -> None:
    for at in (0.0, AT, 1_795_000_000.0, 1_795_000_000.001, 1_795_000_059.9999):
        expected = datetime.fromtimestamp(int(at * 1000) / 1000, UTC)
        assert datetime.fromisoformat(log_config.format_timestamp(at)) == expected
