"""Counts the provider's answers while they are recorded, in the same transaction.

Refusals are counted by status and reason for every mailing. All answers are counted for mailings
with a rule `stop_when`. Each connection adds to rows of its own, so that workers do not wait for
each other: see brake_models.py.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import PreparedStatement
from shared.domain.stop_rule import AnswerCounts
from shared.logging.redaction import redact_answer
from worker.recording.batch_report import BatchReport

PERIOD_SECONDS = 5
# Periods that make up the last minute; the present one is not over, so it is 55 to 60 seconds.
RECENT_PERIODS = 12
MAX_EXAMPLE_LENGTH = 200
# Different reasons of one mailing: in one transaction, and in all that one connection counts.
MAX_NEW_REASONS = 10
MAX_REASONS = 20
OTHER = "other"
# A phone however the provider writes it. Examples are kept when the client has been deleted.
LONG_NUMBER = re.compile(r"\d(?:[\s().+-]*\d){9,}")

ADD_ANSWER_COUNTS = PreparedStatement(
    "add_answer_counts",
    f"""
INSERT INTO answer_counts AS c (mailing_id, round, shard, slot, period, accepted, refused)
SELECT mailing_id, round, pg_backend_pid() % 16, slot, period, accepted, refused
FROM (SELECT floor(extract(epoch FROM now()) / {PERIOD_SECONDS})::bigint AS number) AS present
CROSS JOIN LATERAL (VALUES (-1, 0), (number % 16, number)) AS slots (slot, period)
CROSS JOIN unnest(%(mailings)s::bigint[], %(rounds)s::int[], %(accepted)s::bigint[],
    %(refused)s::bigint[]) AS t (mailing_id, round, accepted, refused)
ORDER BY 1, 2, 4
ON CONFLICT (mailing_id, round, shard, slot) DO UPDATE SET period = excluded.period,
    accepted = excluded.accepted
        + CASE WHEN c.period = excluded.period THEN c.accepted ELSE 0 END,
    refused = excluded.refused + CASE WHEN c.period = excluded.period THEN c.refused ELSE 0 END
""",  # noqa: S608 (constants)
)
# A provider that gives each message a reason of its own must not fill the table.
ADD_REFUSALS = f"""
WITH new AS (
    SELECT t.mailing_id, t.http_status, n, example, at,
        CASE WHEN known.reasons < {MAX_REASONS} OR EXISTS (
            SELECT FROM refusal_counts c WHERE c.mailing_id = t.mailing_id AND c.shard = own.shard
                AND c.http_status = t.http_status AND c.reason = t.reason)
        THEN t.reason ELSE '{OTHER}' END AS reason, own.shard
    FROM (SELECT (pg_backend_pid() %% 16)::smallint AS shard) AS own
    CROSS JOIN unnest(%s::bigint[], %s::smallint[], %s::text[], %s::bigint[], %s::text[],
        %s::timestamptz[]) AS t (mailing_id, http_status, reason, n, example, at)
    CROSS JOIN LATERAL (SELECT count(*) AS reasons FROM refusal_counts c
        WHERE c.mailing_id = t.mailing_id AND c.shard = own.shard) AS known
)
INSERT INTO refusal_counts AS c
    (mailing_id, shard, http_status, reason, count, example, last_at)
SELECT mailing_id, shard, http_status, reason, sum(n), max(example), max(at) FROM new
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (mailing_id, shard, http_status, reason) DO UPDATE
SET count = c.count + excluded.count, example = excluded.example, last_at = excluded.last_at
"""  # noqa: S608 (constants)


class RefusalKey(NamedTuple):
    """What refusals are counted by."""

    mailing_id: int
    http_status: int
    reason: str


class Refusals(NamedTuple):
    """Refusals for one reason: their number, one of the answers, and the time of the latest."""

    n: int
    example: str
    last_at: datetime


class AnswerTally:
    """The answers that one transaction records. Only reports under the present token are added."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], AnswerCounts] = {}
        self._refusals: dict[RefusalKey, Refusals] = {}

    def add(self, report: BatchReport) -> None:
        """Add a report that is applied."""
        if report.message_reports:
            self._add_refusals(report)
        if report.answer_round is not None:
            counts = count_answers(report)
            if counts.answers:
                key = report.mailing_id, report.answer_round
                self._counts[key] = self._counts.get(key, AnswerCounts()).plus(counts)

    def write(self, cursor: Cursor) -> None:
        """Write the counts; call it after the messages and before the minutes."""
        if self._refusals:
            _write_refusals(cursor, self._refusals)
        if self._counts:
            mailings, rounds = zip(*self._counts, strict=True)
            accepted, refused = zip(*self._counts.values(), strict=True)
            values = {"mailings": mailings, "rounds": rounds}
            values |= {"accepted": accepted, "refused": refused}
            ADD_ANSWER_COUNTS.run(cursor, {name: list(column) for name, column in values.items()})

    def _add_refusals(self, report: BatchReport) -> None:
        for each in report.message_reports:
            attempt = each.attempt
            if attempt is None or not attempt.refused:
                continue
            key = RefusalKey(report.mailing_id, attempt.http_status or 0, attempt.reason)
            known = self._refusals.get(key)
            if known is None:
                example = redact_answer(attempt.excerpt, attempt.text or "")
                example = LONG_NUMBER.sub("***", example)[:MAX_EXAMPLE_LENGTH]
                at = datetime.fromtimestamp(attempt.at, UTC)
                self._refusals[key] = Refusals(1, example, at)
            else:
                self._refusals[key] = known._replace(n=known.n + 1)


def count_answers(report: BatchReport) -> AnswerCounts:
    """Return the answers of one report."""
    refused = sum(
        each.attempt is not None and each.attempt.refused for each in report.message_reports
    )
    return AnswerCounts(len(report.accepted), refused)


def _write_refusals(cursor: Cursor, refusals: Mapping[RefusalKey, Refusals]) -> None:
    rows = [(*key, *value) for key, value in _limit_reasons(refusals.items())]
    columns = [list(column) for column in zip(*rows, strict=True)]
    cursor.execute(ADD_REFUSALS, columns)


def _limit_reasons(
    refusals: Iterable[tuple[RefusalKey, Refusals]],
) -> list[tuple[RefusalKey, Refusals]]:
    """Return the refusals with the less frequent reasons of a mailing as OTHER."""
    limited: dict[RefusalKey, Refusals] = {}
    reasons: dict[int, int] = {}
    for key, found in sorted(refusals, key=lambda item: -item[1].n):
        reasons[key.mailing_id] = reasons.get(key.mailing_id, 0) + 1
        if reasons[key.mailing_id] > MAX_NEW_REASONS:
            key = key._replace(reason=OTHER)
        known = limited.get(key)
        limited[key] = found if known is None else known._replace(n=known.n + found.n)
    return list(limited.items())
