"""The number of repeated messages that a failure of a worker permits."""

import itertools

import pytest

from tests.chaos.assertions import Repeats, RequestRow, ScenarioResult

CONCURRENCY = 2


def accepted_twice(ids: range, first: float, second: float) -> list[RequestRow]:
    return [
        RequestRow(
            n=0,
            id=id_,
            phone=1,
            text="",
            at=at,
            answer="accepted",
            accepted=True,
        )
        for id_, at in itertools.product(ids, (first, second))
    ]


def find_violations(rows: list[RequestRow], kills: list[float]) -> list[str]:
    violations: list[str] = []
    repeats = Repeats(
        sorted(rows, key=lambda row: row["at"]),
        kills,
        set(kills),
        [],
        set(),
        latency=0.15,
        unrecorded=1.0,
    )
    repeats.check(CONCURRENCY, ScenarioResult("kill"), violations.append)
    return violations


@pytest.mark.parametrize(
    ("repeats", "kills", "violations"),
    [
        (2, [100.0], []),
        (3, [100.0], ["3 messages repeated after 1, at most 2 permitted"]),
        # A request can have been in flight at both.
        (4, [100.0, 100.2], []),
        (5, [100.0, 100.2], ["5 messages repeated after 1 and 2, at most 4 permitted"]),
        (3, [100.0, 101.0], ["3 messages repeated after 1, at most 2 permitted"]),
    ],
)
def test_a_failure_repeats_what_was_in_flight(
    repeats: int, kills: list[float], violations: list[str]
) -> None:
    rows = accepted_twice(range(repeats), first=99.95, second=112.0)
    assert find_violations(rows, kills) == violations


def test_a_repeat_without_a_failure_is_reported() -> None:
    (violation,) = find_violations(accepted_twice(range(1), first=90.0, second=112.0), [100.0])
    assert violation.startswith("message 0 was accepted again without a reason")
