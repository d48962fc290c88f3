"""When a mailing's answers break its rule on refusals."""

import pytest

from shared.domain.stop_rule import AnswerCounts, StopRule


@pytest.mark.parametrize(
    ("rule", "counts", "broken"),
    [
        (StopRule(0.3, 100), AnswerCounts(70, 30), True),
        (StopRule(0.3, 100), AnswerCounts(71, 30), False),
        (StopRule(0.3, 100), AnswerCounts(0, 99), False),
        (StopRule(0.1, 30), AnswerCounts(27, 3), True),  # 0.1 × 30 is more than 3 as floats
        (StopRule(1.0, 1), AnswerCounts(0, 1), True),
        (StopRule(1.0, 1), AnswerCounts(1, 1_000_000), False),
        (StopRule(0.0, 10), AnswerCounts(10, 0), False),
        (StopRule(0.0, 10), AnswerCounts(1_000_000, 1), True),
    ],
)
def test_rule_is_broken_by_enough_answers_of_its_share(
    rule: StopRule, counts: AnswerCounts, broken: bool
) -> None:
    assert rule.is_broken_by(counts) is broken


def test_half_of_the_refusals_are_close() -> None:
    rule = StopRule(0.3, 100)
    assert not rule.is_close_to(AnswerCounts(0, 14))
    assert rule.is_close_to(AnswerCounts(0, 15))
    assert not rule.is_close_to(AnswerCounts(1_000, 150))
    assert rule.is_close_to(AnswerCounts(850, 150))


def test_a_column_without_a_rule_is_none() -> None:
    assert StopRule.from_json(None) is None
    assert StopRule.from_json({"refused_share": 1, "min_answers": 5}) == StopRule(1.0, 5)
