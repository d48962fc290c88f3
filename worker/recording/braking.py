"""The brake: pauses a mailing whose messages the provider refuses too often.

It judges two counts of answers, all of the present round and those of the last minute. Either
breaks the mailing's rule `stop_when`. The counts of all workers are read after each flush, in
transactions of their own, because a mailing is locked before its batches.
"""

from collections.abc import Collection
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.on_commit import log_on_commit
from shared.db.policy import STOP_WHEN
from shared.db.prepared_statements import PreparedStatement
from shared.db.refusals import read_refusals
from shared.domain.statuses import MailingStatus, PauseReason
from shared.domain.stop_rule import AnswerCounts, StopRule
from worker.recording.answer_counts import PERIOD_SECONDS, RECENT_PERIODS
from worker.runtime.database import Database

READ_ANSWERS = PreparedStatement(
    "read_answers",
    f"""
SELECT m.id, m.status, {STOP_WHEN},
    coalesce(sum(accepted) FILTER (WHERE slot = -1), 0)::bigint,
    coalesce(sum(refused) FILTER (WHERE slot = -1), 0)::bigint,
    coalesce(sum(accepted) FILTER (WHERE slot >= 0), 0)::bigint,
    coalesce(sum(refused) FILTER (WHERE slot >= 0), 0)::bigint
FROM mailings m LEFT JOIN answer_counts c ON c.mailing_id = m.id AND c.round = m.answer_round
    AND (slot = -1
        OR period > floor(extract(epoch FROM now()) / {PERIOD_SECONDS}) - {RECENT_PERIODS})
WHERE m.id = ANY (%(ids)s::bigint[]) GROUP BY m.id
""",  # noqa: S608 (constants)
)
LOCK_RUNNING = "SELECT FROM mailings WHERE id = %s AND status = 'running' FOR NO KEY UPDATE"
PAUSE = "UPDATE mailings SET status = 'paused', pause_reason = %s, updated_at = now() WHERE id = %s"


class Judgement(NamedTuple):
    """A mailing's state, its rule, and the answers of all workers that are recorded."""

    status: str
    rule: StopRule | None
    total: AnswerCounts
    recent: AnswerCounts

    @property
    def must_stop(self) -> bool:
        """The mailing is running, and its answers break its rule."""
        return self.status == MailingStatus.RUNNING and self.broken_by is not None

    @property
    def broken_by(self) -> AnswerCounts | None:
        """The answers that break the rule."""
        if self.rule is None:
            return None
        return next((c for c in (self.recent, self.total) if self.rule.is_broken_by(c)), None)


def judge_answers(db: Database, mailing_ids: Collection[int]) -> dict[int, Judgement]:
    """Return the answers to each mailing's messages; pause those whose rule they break."""
    with db.autocommit() as cursor:
        judgements = _read_judgements(cursor, mailing_ids)
    for mailing_id in sorted(judgements):
        if judgements[mailing_id].must_stop:
            judgements |= _pause_mailing(db, mailing_id)
    return judgements


def _pause_mailing(db: Database, mailing_id: int) -> dict[int, Judgement]:
    """Pause a mailing if its answers still break its rule; return what it is judged by now."""
    with db.transaction() as cursor:
        cursor.execute(LOCK_RUNNING, (mailing_id,))
        judgements = _read_judgements(cursor, [mailing_id])
        judged = judgements.get(mailing_id)
        counts = judged.broken_by if judged and judged.must_stop else None
        if judged is None or judged.rule is None or counts is None:
            return judgements
        cursor.execute(PAUSE, (PauseReason.REFUSALS, mailing_id))
        refusals = read_refusals(cursor, [mailing_id])[mailing_id]
        log_on_commit(
            cursor,
            "mailing.braked",
            mailing_id=mailing_id,
            answers=counts.answers,
            refused=counts.refused,
            refused_share=judged.rule.refused_share,
            min_answers=judged.rule.min_answers,
            refusals=[refusal._asdict() for refusal in refusals],
        )
    return {mailing_id: judged._replace(status=MailingStatus.PAUSED)}


def _read_judgements(cursor: Cursor, mailing_ids: Collection[int]) -> dict[int, Judgement]:
    READ_ANSWERS.run(cursor, {"ids": list(mailing_ids)})
    return {
        mailing_id: Judgement(
            status,
            StopRule.from_json(stop_when),
            AnswerCounts(accepted, refused),
            AnswerCounts(recent_accepted, recent_refused),
        )
        for mailing_id, status, stop_when, accepted, refused, recent_accepted, recent_refused in (
            cursor.fetchall()
        )
    }
