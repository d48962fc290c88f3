"""The rules for every scenario: compare the requests that the provider received with PostgreSQL."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from shared.domain.send_windows import Window, is_open

# A request gets its time when the provider has read it, at most this long after it left.
TRANSIT_SECONDS = 0.05
# Answers of the provider that accept a message without the worker learning it in time.
LOST_ANSWERS = {"reset_after", "accepted_hang", "accepted_late", "drip"}
# An acceptance at most this old may be unrecorded when a worker fails.
UNRECORDED_SECONDS = 1.0

RequestRow = dict[str, Any]  # a request as the provider lists it
Statuses = dict[int, tuple[int, str, bool]]  # by message: its mailing, status, in doubt
ReportViolation = Callable[[str], None]


@dataclass
class ObservedMailing:
    """A mailing of the scenario. `phones` maps the phones of its audience to their time zones."""

    id: int
    tag: str
    clients: int
    phones: dict[int, str]
    texts: set[str]
    end_at: float = float("inf")
    window: Window | None = None


MailingsByText = dict[str, ObservedMailing]


@dataclass
class ScenarioResult:
    """The effects of a scenario on its messages: a line of the table.

    `silence_s` is the longest pause between two requests, `latest_ms` the time of the last request
    after the end (negative: before it). `recovery_s` is what the scenario measures; after worker
    failures, the longest time until another worker sent a message of the failed one.
    """

    fault: str
    audience: int = 0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    latest_ms: float | None = None
    recovery_s: float | None = None
    silence_s: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


def check_times(
    rows: list[RequestRow], by_text: MailingsByText, result: ScenarioResult, report: ReportViolation
) -> None:
    """Assert that no request arrived at or after the end, or outside the window."""
    result.silence_s = max(intervals(row["at"] for row in rows), default=0.0)
    for row in rows:
        mailing = by_text.get(row["text"])
        if mailing is None or row["phone"] not in mailing.phones:
            continue
        after = row["at"] - mailing.end_at
        if after > -1 and after > (result.latest_ms or -1000) / 1000:
            result.latest_ms = round(after * 1000, 1)
        zone = mailing.phones[row["phone"]]
        # A request that left before the window's close may arrive after it.
        left, arrived = (datetime.fromtimestamp(row["at"] - s, UTC) for s in (TRANSIT_SECONDS, 0))
        outside = not any(is_open(mailing.window, zone, at) for at in (left, arrived))
        if after >= TRANSIT_SECONDS or outside:
            result.late += 1
            report(f"{after:+.3f} s from its end, outside the window {outside}: {row}")


def check_outcomes(
    statuses: Statuses,
    accepted: set[int],
    mailings: list[ObservedMailing],
    result: ScenarioResult,
    report: ReportViolation,
) -> None:
    """Each client has a message, each message has ended, and its status agrees with the provider.

    What is `sent` was accepted. What was accepted is `sent`, or has ended and is in doubt.
    """
    audiences = Counter(mailing_id for mailing_id, _, _ in statuses.values())
    for mailing in mailings:
        missing = mailing.clients - audiences[mailing.id]
        if missing:
            result.lost += missing
            report(f"mailing {mailing.id}: {missing} clients have no message")
    for id_, (mailing_id, status, in_doubt) in statuses.items():
        if status == "pending" or (status == "sent" and id_ not in accepted):
            result.lost += 1
            report(f"message {id_} of mailing {mailing_id} is {status}: {id_ in accepted=}")
        elif id_ in accepted and status != "sent" and not in_doubt:
            report(f"message {id_} was accepted, but is {status} and not in doubt")
    for id_ in accepted - statuses.keys():
        report(f"message {id_} was accepted, but belongs to none of the mailings")


def check_recipients(
    rows: list[RequestRow], by_text: MailingsByText, report: ReportViolation
) -> None:
    """Assert that each client of a mailing got its message under one id."""
    ids: dict[tuple[int, int], int] = {}
    for row in rows:
        mailing = by_text.get(row["text"])
        if mailing is not None:
            first = ids.setdefault((mailing.id, row["phone"]), row["id"])
            if first != row["id"]:
                report(f"one phone, one mailing, two ids: {first} and {row}")


class Repeats:
    """The messages that were accepted more than once, and the permitted reasons.

    `failures` are the instants at which a worker was killed or stopped, `kills` those of them after
    which its journal was read, `disconnects` those at which the provider dropped every connection,
    `timed_out` the messages whose answer did not arrive in time, `latency` the longest answer
    time. A message accepted up to `unrecorded` seconds
    before a failure may not be recorded yet.
    """

    def __init__(
        self,
        rows: list[RequestRow],
        failures: list[float],
        kills: set[float],
        disconnects: list[float],
        timed_out: set[int],
        *,
        latency: float,
        unrecorded: float,
    ):
        self.rows, self.failures, self.kills = rows, failures, kills
        self.disconnects, self.timed_out = disconnects, timed_out
        self.latency, self.unrecorded = latency, unrecorded

    def check(self, concurrency: int, result: ScenarioResult, report: ReportViolation) -> None:
        """Each repeat has a reason. A failure repeats at most the requests in flight and the
        acceptances of half a second, a kill only the former.

        Which of two failures repeated a request cannot be told when it was in flight at both: they
        are counted together."""
        together = self._group_failures()
        by_failure: Counter[float] = Counter()
        resent_at: dict[float, float] = {}
        for id_, rows in self._accepted_requests().items():
            if len(rows) < 2:
                continue
            result.duplicated += 1
            for row, following in pairwise(rows):
                if row["answer"] in LOST_ANSWERS or self._find(self.disconnects, row["at"], 0):
                    continue
                failure = self._find(self.failures, row["at"], self.unrecorded)
                if failure is None and id_ in self.timed_out:
                    result.details["timed out"] = result.details.get("timed out", 0) + 1
                elif failure is None:
                    report(f"message {id_} was accepted again without a reason: {rows}")
                else:
                    by_failure[together[failure][0]] += 1
                    first = resent_at.get(failure, following["at"])
                    resent_at[failure] = min(first, following["at"])
        for failure, count in sorted(by_failure.items()):
            group = together[failure]
            limit = concurrency * len(group)
            limit += sum(self._count_last_half_second(f) for f in group if f not in self.kills)
            numbers = " and ".join(str(self.failures.index(f) + 1) for f in group)
            result.details[f"repeats after failure {numbers}"] = f"{count} of {limit}"
            if count > limit:
                report(f"{count} messages repeated after {numbers}, at most {limit} permitted")
        if resent_at and result.recovery_s is None:
            result.recovery_s = max(again - failure for failure, again in resent_at.items())

    def _group_failures(self) -> dict[float, list[float]]:
        """Return the failures that a request can be in flight at together, for each failure."""
        together: dict[float, list[float]] = {}
        previous: float | None = None
        for failure in self.failures:
            near = previous is not None and failure - previous <= self.latency + 2 * TRANSIT_SECONDS
            together[failure] = together[previous] if previous is not None and near else []
            together[failure].append(failure)
            previous = failure
        return together

    def _accepted_requests(self) -> dict[int, list[RequestRow]]:
        by_message: dict[int, list[RequestRow]] = {}
        for row in self.rows:
            if row["accepted"]:
                by_message.setdefault(row["id"], []).append(row)
        return by_message

    def _count_last_half_second(self, failure: float) -> int:
        """Count the requests of the last half second of sending before the failure."""
        start = failure - self.unrecorded
        times = [row["at"] for row in self.rows if start <= row["at"] <= failure]
        # Sending may have stopped earlier, because PostgreSQL was down.
        last = max(times, default=failure) if self.unrecorded > UNRECORDED_SECONDS else failure
        return sum(last - 0.5 <= at <= last for at in times)

    def _find(self, instants: list[float], at: float, before: float) -> float | None:
        """Find the instant at which a request of time `at` was in flight, or `before` earlier."""
        for instant in instants:
            earliest = instant - before - self.latency - TRANSIT_SECONDS
            if earliest <= at <= instant + TRANSIT_SECONDS:
                return instant
        return None


def intervals(times: Iterable[float]) -> list[float]:
    """Return the pauses between these times."""
    return [later - sooner for sooner, later in pairwise(sorted(times))]
