"""The rules by which a scenario is judged: from what the provider saw and what the books say."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from shared.domain.send_windows import Window, is_open

# A request is stamped when the provider has read it, some time after it left.
TRANSIT = 0.05
# Accepted, but nobody was told in time.
LOST_ANSWERS = {"reset_after", "accepted_hang", "accepted_late", "drip"}
# How long before a blow an acceptance may have come that was not recorded by then.
UNRECORDED = 1.0

Row = dict[str, Any]  # a request as the provider lists it
Statuses = dict[int, tuple[int, str, bool]]  # by message: its mailing, status, in doubt
Say = Callable[[str], None]


@dataclass
class Watched:
    """A mailing as the test made it. `phones` are its audience's, with each one's time zone."""

    id: int
    tag: str
    clients: int
    phones: dict[int, str]
    texts: set[str]
    end_at: float = float("inf")
    window: Window | None = None


@dataclass
class Verdict:
    """What a scenario did to the messages: a line of the table.

    `silence_s` is the longest pause between two arrivals, `latest_ms` how long after the end (or,
    below zero, before it) the last one came. `recovery_s` is what the scenario measures; after
    blows, the longest that it took until another worker sent what the dead one had in hand.
    """

    fault: str
    audience: int = 0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    latest_ms: float | None = None
    recovery_s: float | None = None
    silence_s: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


def judge_times(rows: list[Row], by_text: dict[str, Watched], verdict: Verdict, say: Say) -> None:
    """Nothing at or after the end, nothing outside the window."""
    verdict.silence_s = max(gaps(row["at"] for row in rows), default=0.0)
    for row in rows:
        watched = by_text.get(row["text"])
        if watched is None or row["phone"] not in watched.phones:
            continue
        after = row["at"] - watched.end_at
        if after > -1 and after > (verdict.latest_ms or -1000) / 1000:
            verdict.latest_ms = round(after * 1000, 1)
        zone = watched.phones[row["phone"]]
        # What left before the window's close may arrive after it; nothing before it opens.
        left, arrived = (datetime.fromtimestamp(row["at"] - s, UTC) for s in (TRANSIT, 0))
        outside = not any(is_open(watched.window, zone, at) for at in (left, arrived))
        if after >= TRANSIT or outside:
            verdict.late += 1
            say(f"{after:+.3f} s from its end, outside the window {outside}: {row}")


def judge_outcomes(
    statuses: Statuses, accepted: set[int], made: list[Watched], verdict: Verdict, say: Say
) -> None:
    """Everybody has a message, each message has ended, and as the provider saw it."""
    audiences = Counter(mailing_id for mailing_id, _, _ in statuses.values())
    for watched in made:
        missing = watched.clients - audiences[watched.id]
        if missing:
            verdict.lost += missing
            say(f"mailing {watched.id}: {missing} clients have no message")
    for id_, (mailing_id, status, in_doubt) in statuses.items():
        if status == "pending" or (status == "sent" and id_ not in accepted):
            verdict.lost += 1
            say(f"message {id_} of mailing {mailing_id} is {status}: {id_ in accepted=}")
        elif id_ in accepted and status != "sent" and not in_doubt:
            say(f"message {id_} was accepted, but is {status} without a doubt")
    for id_ in accepted - statuses.keys():
        say(f"message {id_} was accepted, but is of none of the mailings")


def judge_recipients(rows: list[Row], by_text: dict[str, Watched], say: Say) -> None:
    """A client gets a mailing under one id."""
    ids: dict[tuple[int, int], int] = {}
    for row in rows:
        watched = by_text.get(row["text"])
        if watched is not None:
            first = ids.setdefault((watched.id, row["phone"]), row["id"])
            if first != row["id"]:
                say(f"one phone, one mailing, two ids: {first} and {row}")


class Repeats:
    """What was accepted more than once, and why.

    `blows` are the moments at which a worker was killed or stopped, `cuts` those at which the
    provider dropped every connection, `timed_out` the messages whose answer was waited for in vain;
    `latency` is the longest that an answer takes.
    """

    def __init__(
        self,
        rows: list[Row],
        blows: list[float],
        cuts: list[float],
        timed_out: set[int],
        *,
        latency: float,
        unrecorded: float,
    ):
        self.rows, self.blows, self.cuts = rows, blows, cuts
        self.timed_out, self.latency, self.unrecorded = timed_out, latency, unrecorded

    def judge(self, concurrency: int, verdict: Verdict, say: Say) -> None:
        by_blow: Counter[float] = Counter()
        taken_over: dict[float, float] = {}
        for id_, rows in self._by_message().items():
            if len(rows) < 2:
                continue
            verdict.duplicated += 1
            for row, following in pairwise(rows):
                if row["answer"] in LOST_ANSWERS or self._moment(self.cuts, row["at"], 0):
                    continue
                blow = self._moment(self.blows, row["at"], self.unrecorded)
                if blow is None and id_ in self.timed_out:
                    verdict.notes["timed out"] = verdict.notes.get("timed out", 0) + 1
                elif blow is None:
                    say(f"message {id_} was accepted again without a reason: {rows}")
                else:
                    by_blow[blow] += 1
                    first = taken_over.get(blow, following["at"])
                    taken_over[blow] = min(first, following["at"])
        for blow, count in sorted(by_blow.items()):
            bound = concurrency + self._half_second_before(blow)
            verdict.notes[f"blow {self.blows.index(blow) + 1}"] = f"{count} of {bound}"
            if count > bound:
                say(f"{count} handed off again after one blow, at most {bound} may be")
        if taken_over and verdict.recovery_s is None:
            verdict.recovery_s = max(again - blow for blow, again in taken_over.items())

    def _by_message(self) -> dict[int, list[Row]]:
        times: dict[int, list[Row]] = {}
        for row in self.rows:
            if row["accepted"]:
                times.setdefault(row["id"], []).append(row)
        return times

    def _half_second_before(self, blow: float) -> int:
        """How many arrived in the last half second of sending before the blow."""
        times = [row["at"] for row in self.rows if blow - self.unrecorded <= row["at"] <= blow]
        # Sending may have stopped before, because PostgreSQL was away.
        last = max(times, default=blow) if self.unrecorded > UNRECORDED else blow
        return sum(last - 0.5 <= at <= last for at in times)

    def _moment(self, moments: list[float], at: float, before: float) -> float | None:
        """The moment at which what was accepted at `at` was in flight, or that little before."""
        for moment in moments:
            if moment - before - self.latency - TRANSIT <= at <= moment + TRANSIT:
                return moment
        return None


def gaps(arrivals: Iterable[float]) -> list[float]:
    """The pauses between arrivals."""
    return [later - sooner for sooner, later in pairwise(sorted(arrivals))]
