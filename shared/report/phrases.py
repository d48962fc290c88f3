"""What the report says of a mailing and of the day, in one language: the same in text and HTML."""

from shared.report.figures import DayFigures, LateMailing, MailingDay
from shared.report.wording import Words

COUNTS = ("audience", "sent", "failed", "expired", "cancelled", "pending", "in_doubt")
LONGEST_TITLE = 80


def title(mailing: MailingDay, words: Words) -> str:
    """By what people know a mailing: its number, and its name or its text's first line."""
    line = mailing.name or mailing.first_line
    if len(line) > LONGEST_TITLE:
        line = line[: LONGEST_TITLE - 1] + "…"
    return f"{words.mailing} {mailing.id}: {line}"


def status(mailing: MailingDay, words: Words) -> str:
    return words.statuses[mailing.status] + (f", {words.deleted}" if mailing.deleted else "")


def times(mailing: MailingDay, words: Words) -> list[tuple[str, str]]:
    """The share accepted and the waits, as far as there are any."""
    found = []
    if mailing.share is not None:
        found.append((words.share, words.percentage(mailing.share)))
    if mailing.median is not None and mailing.p95 is not None:
        found.append((words.median, words.duration(mailing.median)))
        found.append((words.p95, words.duration(mailing.p95)))
    return found


def facts(mailing: MailingDay, zone: str, words: Words) -> list[tuple[str, str]]:
    """Everything about a mailing's day, with labels."""
    return [
        (words.start, words.time(mailing.start_at, zone)),
        (words.end, words.time(mailing.end_at, zone)),
        (words.status, status(mailing, words)),
        *((getattr(words, name), words.number(getattr(mailing, name))) for name in COUNTS),
        *times(mailing, words),
    ]


def attention(figures: DayFigures, words: Words) -> list[str]:
    """What somebody should look at, most urgent first; if it is nothing, that."""
    points = [_late(late, figures.zone, words) for late in figures.late]
    points += [
        words.openings.format(n=words.number(n), reason=words.cause(reason))
        for reason, n in figures.openings
    ]
    points += [
        words.reasons.format(n=words.number(n), reason=words.cause(reason))
        for reason, n in figures.reasons
    ]
    return points or [words.nothing]


def _late(late: LateMailing, zone: str, words: Words) -> str:
    end = words.time(late.end_at, zone)
    if late.status == "paused":
        return words.paused.format(id=late.id, end=end)
    if late.never:
        return words.never.format(id=late.id, n=words.number(late.never), end=end)
    pace = words.number(round(late.pace))
    return words.too_slow.format(id=late.id, n=words.number(late.due), end=end, pace=pace)
