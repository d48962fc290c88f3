"""Answers of the provider are counted as they are recorded; many refusals pause a mailing."""

import json

import pytest
from structlog.testing import CapturingLogger

from shared.db import on_commit
from shared.db.refusals import Refusal, read_refusals
from shared.domain.stop_rule import AnswerCounts, StopRule
from tests.support.fleet import (
    LEASE_SECONDS,
    FakeWorker,
    Fleet,
    rejected,
    throttled,
    unavailable,
    unknown,
)
from tests.support.interleaving import threads
from worker.recording.answer_counts import MAX_NEW_REASONS, MAX_REASONS, OTHER
from worker.recording.batch_report import BatchReport
from worker.recording.braking import Judgement, judge_answers
from worker.recording.record import record_reports
from worker.recording.state_machine import MessageReport
from worker.runtime.database import Database

RULE = StopRule(0.5, 10)


def add_mailing(
    fleet: Fleet, count: int = 40, rule: StopRule | None = RULE, policy: int = 1
) -> FakeWorker:
    stop_when = None if rule is None else json.dumps(rule._asdict())
    mailing_id = fleet.add_launched_mailing(count, stop_when=stop_when, policy_version=policy)
    return fleet.claim_batch(mailing_id)


def make_report(worker: FakeWorker, accepted: int, refused: int, at: int = 0) -> BatchReport:
    """Make a report of so many answers, beginning with the message of this index."""
    ids = worker.ids[at : at + accepted + refused]
    report = worker.make_report(ids[:accepted], map(rejected, ids[accepted:]))
    if worker.claim.stop_when is not None:
        report.answer_round = worker.claim.answer_round
    return report


def judge(fleet: Fleet, worker: FakeWorker) -> Judgement:
    return judge_answers(fleet.db, [worker.mailing_id])[worker.mailing_id]


def test_answers_are_counted_once_and_other_outcomes_are_not(fleet: Fleet) -> None:
    worker = add_mailing(fleet)
    report = make_report(worker, 5, 3)
    others = [unavailable(worker.ids[8]), unknown(worker.ids[9]), throttled(worker.ids[10])]
    report.message_reports += others
    for _ in range(3):
        fleet.record_reports(report)
    judged = judge(fleet, worker)
    assert (judged.total, judged.recent) == (AnswerCounts(5, 3), AnswerCounts(5, 3))
    assert (judged.status, judged.rule) == ("running", RULE)


def test_reports_of_a_stale_worker_are_not_counted(fleet: Fleet) -> None:
    worker = add_mailing(fleet)
    fleet.expire_lease(worker.mailing_id)
    fleet.claim_batch(worker.mailing_id)
    fleet.record_reports(make_report(worker, 5, 5))
    assert judge(fleet, worker).total == AnswerCounts()
    assert not fleet.query("SELECT 1 FROM refusal_counts WHERE mailing_id = %s", worker.mailing_id)


def test_a_mailing_without_a_rule_has_no_answer_counts(fleet: Fleet) -> None:
    worker = add_mailing(fleet, rule=None)
    fleet.record_reports(make_report(worker, 0, 20))
    assert judge(fleet, worker)[:3] == ("running", None, AnswerCounts())
    assert not fleet.query("SELECT 1 FROM answer_counts WHERE mailing_id = %s", worker.mailing_id)


def test_a_broken_rule_pauses_the_mailing_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = add_mailing(fleet)
    fleet.record_reports(make_report(worker, 5, 4))
    assert judge(fleet, worker).status == "running"
    fleet.record_reports(make_report(worker, 0, 1, at=9))
    logger = CapturingLogger()
    monkeypatch.setattr(on_commit, "log", logger)
    for _ in range(2):
        assert judge(fleet, worker).status == "paused"
    mailing = fleet.read_mailing(worker.mailing_id)
    assert (mailing["status"], mailing["pause_reason"]) == ("paused", "refusals")
    lines = [call.kwargs for call in logger.calls]
    (event,) = [line for line in lines if line["event"] == "mailing.braked"]
    assert event["refused"] == 5
    assert event["answers"] == 10
    assert event["refusals"]
    assert fleet.try_claim_batch(worker.mailing_id) is None


def test_a_paused_mailing_keeps_its_reason(fleet: Fleet) -> None:
    worker = add_mailing(fleet)
    fleet.record_reports(make_report(worker, 0, 10))
    fleet.query(
        "UPDATE mailings SET status = 'paused', pause_reason = 'manual' WHERE id = %s",
        worker.mailing_id,
    )
    assert judge(fleet, worker).status == "paused"
    assert fleet.read_mailing(worker.mailing_id)["pause_reason"] == "manual"


def test_another_round_begins_new_counts(fleet: Fleet) -> None:
    worker = add_mailing(fleet)
    fleet.record_reports(make_report(worker, 0, 10))
    fleet.query(
        "UPDATE mailings SET answer_round = answer_round + 1 WHERE id = %s", worker.mailing_id
    )
    # An answer that was counted in the earlier round, and is recorded late.
    fleet.record_reports(make_report(worker, 0, 1, at=10))
    judged = judge(fleet, worker)
    assert (judged.status, judged.total, judged.recent) == (
        "running",
        AnswerCounts(),
        AnswerCounts(),
    )


def test_the_last_minute_is_judged_by_itself(fleet: Fleet) -> None:
    worker = add_mailing(fleet, 200)
    fleet.record_reports(make_report(worker, 100, 0))
    fleet.record_reports(make_report(worker, 0, 10, at=100))
    assert judge(fleet, worker).status == "running"
    # The rows of a period 80 seconds ago have the slot of the present one.
    fleet.query("UPDATE answer_counts SET period = period - 16 WHERE slot >= 0")
    assert judge(fleet, worker).recent == AnswerCounts()
    fleet.record_reports(make_report(worker, 0, 10, at=110))
    judged = judge(fleet, worker)
    assert judged.total == AnswerCounts(100, 20)
    assert judged.recent == AnswerCounts(0, 10)
    assert judged.status == "paused"


def test_the_policy_of_the_launch_applies_to_mailings_without_their_own_rule(fleet: Fleet) -> None:
    worker = add_mailing(fleet, rule=None)
    version = fleet.query_value(
        "INSERT INTO policies (version, stop_when) SELECT max(version) + 1, %s FROM policies"
        " RETURNING version",
        json.dumps(RULE._asdict()),
    )
    try:
        worker_of_policy = add_mailing(fleet, rule=None, policy=version)
        worker_of_own = add_mailing(fleet, rule=StopRule(0.9, 5), policy=version)
        assert judge(fleet, worker).rule is None, "it was launched under the earlier policy"
        assert worker_of_policy.claim.stop_when == RULE._asdict()
        assert judge(fleet, worker_of_policy).rule == RULE
        assert judge(fleet, worker_of_own).rule == StopRule(0.9, 5)
    finally:
        fleet.query("DELETE FROM policies WHERE version = %s", version)


def test_refusals_are_listed_by_number_without_personal_data(fleet: Fleet) -> None:
    worker = add_mailing(fleet, rule=None)
    common, rare, echo, *_ = worker.ids
    answers = [
        (worker.ids[3], 422, "http_422", "no such subscriber 79161234567"),
        (common, 422, "http_422", "no such subscriber 79161234567"),
        (rare, 200, "code_7", '{"code":7,"to":"8 (916) 123-45-67"}'),
        (echo, 400, "http_400", "the text Hello, dear client, is not permitted"),
    ]
    reports = [make_refusal(*answer, text="Hello, dear client") for answer in answers]
    fleet.record_reports(worker.make_report(reports=reports))
    fleet.record_reports(worker.make_report(reports=reports[:1]))
    assert read_refusals(fleet.cursor, [worker.mailing_id]) == {
        worker.mailing_id: [
            Refusal(422, "http_422", 3, "no such subscriber 7916***4567"),
            Refusal(200, "code_7", 1, '{"code":7,"to":"***"}'),
            Refusal(400, "http_400", 1, "[withheld: it repeats the message's text]"),
        ]
    }


def test_a_provider_with_a_reason_for_each_message_fills_no_table(fleet: Fleet) -> None:
    worker = add_mailing(fleet, 200, rule=None)
    for at in range(0, 200, 40):
        reports = [make_refusal(id_, 200, f"code_{id_}", "") for id_ in worker.ids[at : at + 40]]
        fleet.record_reports(worker.make_report(reports=reports))
    rows = dict(
        fleet.query(
            "SELECT reason, sum(count)::int FROM refusal_counts WHERE mailing_id = %s GROUP BY 1",
            worker.mailing_id,
        )
    )
    assert len(rows) <= MAX_REASONS + MAX_NEW_REASONS + 1
    assert sum(rows.values()) == 200
    assert rows[OTHER] > 100


def test_workers_that_record_at_once_are_all_counted(fleet: Fleet, database_url: str) -> None:
    tag_rule = json.dumps(StopRule(1.0, 10_000)._asdict())
    mailing_id = fleet.add_launched_mailing(400, batch_size=50, stop_when=tag_rule)
    workers = [fleet.claim_batch(mailing_id) for _ in range(8)]

    def record(worker: FakeWorker) -> None:
        db = Database(database_url, "test")
        try:
            for at in range(0, 50, 10):
                report = make_report(worker, 6, 4, at=at)
                record_reports(db, [report], LEASE_SECONDS, 50)
        finally:
            db.close()

    with threads() as start:
        for future in [start(record, worker) for worker in workers]:
            future.result()
    assert judge(fleet, workers[0]).total == AnswerCounts(240, 160)


def make_refusal(
    message_id: int, status: int, reason: str, answer: str, text: str = "Hello"
) -> MessageReport:
    report = rejected(message_id)
    assert report.attempt is not None
    attempt = report.attempt._replace(http_status=status, reason=reason, excerpt=answer, text=text)
    return report._replace(attempt=attempt)
