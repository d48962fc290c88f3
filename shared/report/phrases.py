"""What the report states about a day and a mailing, in one language, for its text and its HTML."""

from collections.abc import Callable
from typing import NamedTuple

from shared.domain.statuses import PauseReason
from shared.report.figures import DayFigures, LateMailing, MailingDay
from shared.report.localization import Language

MAX_TITLE_LENGTH = 80
MAX_REASON_LENGTH = 120


def N_(message: str) -> str:
    """Mark a text for the catalogue; it is translated when it is used."""
    return message


COUNT_LABELS = {
    "audience": N_("Audience"),
    "sent": N_("Accepted"),
    "failed": N_("Failed"),
    "expired": N_("Expired"),
    "opted_out": N_("Opted out"),
    "cancelled": N_("Cancelled"),
    "pending": N_("Pending"),
    "in_doubt": N_("In doubt"),
}
STATUS_LABELS = {
    "scheduled": N_("scheduled"),
    "running": N_("running"),
    "paused": N_("paused"),
    "finished": N_("finished"),
    "cancelled": N_("cancelled"),
}
PAUSED_LABELS = {
    PauseReason.MANUAL: N_(
        "Mailing #%(id)s is paused: unless it is resumed it ends on %(end)s with messages left."
    ),
    PauseReason.REFUSALS: N_(
        "Mailing #%(id)s is paused, as the provider refuses too many of its messages: unless it "
        "is resumed it ends on %(end)s with messages left."
    ),
    PauseReason.AUDIENCE_LIMIT: N_(
        "Mailing #%(id)s is paused, as it would reach more clients than its limit permits: unless "
        "it is resumed it ends on %(end)s."
    ),
    PauseReason.BUDGET: N_(
        "Mailing #%(id)s is paused, as the budget is used up: unless it is resumed it ends on "
        "%(end)s with messages left."
    ),
}
# Reasons that this service records; the provider's own are shown as they are.
REASON_LABELS = {
    "": N_("no reason is known"),
    "rejected": N_("rejected by the provider"),
    "attempts exhausted": N_("attempts exhausted"),
    "time zone unknown": N_("the client's time zone is not known"),
    "client data unusable": N_("the client's data cannot be used in the text"),
    "unavailable": N_("the provider did not answer"),
    "unknown": N_("the provider's answers could not be understood, or broke off"),
    "unauthorized": N_("the provider refused our token"),
}


class Count(NamedTuple):
    """One figure of a mailing or of the whole day, with its label."""

    name: str
    label: str
    n: int
    formatted: str


def list_counts(count: Callable[[str], int], language: Language) -> list[Count]:
    """Return all counts, read by `count`, of a day or of a mailing in the report's order."""
    return [
        Count(name, language.gettext(label), count(name), language.format_number(count(name)))
        for name, label in COUNT_LABELS.items()
    ]


def format_subject(figures: DayFigures, language: Language) -> str:
    day = language.format_day(figures.day)
    if not figures.mailings:
        return language.gettext("Mailings on %(day)s: none", day=day)
    sent = language.format_number(figures.total("sent"))
    return language.gettext("Mailings on %(day)s: %(sent)s accepted", day=day, sent=sent)


def format_cost(figures: DayFigures, language: Language) -> str | None:
    """Return the price of the day's segments; None if no price is set."""
    if figures.segment_price is None:
        return None
    return language.format_money(figures.total("segments") * figures.segment_price)


def format_footer(zone: str, language: Language) -> str:
    return language.gettext(
        "“Accepted” means accepted by the provider. Accepted, failed, expired, opted out and "
        "cancelled count what changed on this day; a negative number says that failed messages are "
        "being tried again. Pending: what was left at the end of the day. In doubt: messages that "
        "may have been delivered although that is not known. Waits run from when a message was due "
        "to when it was accepted. Days and times are those of %(zone)s.",
        zone=zone,
    )


def format_title(mailing: MailingDay, language: Language) -> str:
    """Return a mailing's number with its name, or with the first line of its text."""
    line = shorten(mailing.name or mailing.first_line, MAX_TITLE_LENGTH)
    return language.gettext("Mailing %(id)s: %(title)s", id=mailing.id, title=line)


def format_status(mailing: MailingDay, language: Language) -> str:
    label = language.gettext(STATUS_LABELS[mailing.status])
    return ", ".join([label, language.gettext("deleted")]) if mailing.deleted else label


def list_shares_and_waits(mailing: MailingDay, language: Language) -> list[tuple[str, str]]:
    """Return the share accepted and the waits with their labels, as far as there are any."""
    found = []
    if mailing.share is not None:
        found.append((language.gettext("Share accepted"), language.format_share(mailing.share)))
    if mailing.median is not None and mailing.p95 is not None:
        median, p95 = map(language.format_duration, (mailing.median, mailing.p95))
        found += [(language.gettext("Median wait"), median), (language.gettext("95% within"), p95)]
    return found


def list_attention_points(figures: DayFigures, language: Language) -> list[str]:
    """Return sentences on what needs attention, the most urgent first; empty if nothing does."""
    return [
        *(_describe_late(late, figures.zone, language) for late in figures.late),
        *(
            language.gettext(
                "Sending was stopped because %(reason)s (times that day: %(n)s).",
                n=language.format_number(n),
                reason=_describe_reason(reason, language),
            )
            for reason, n in figures.openings
        ),
        *(
            language.ngettext(
                "%(n)s message failed: %(reason)s.",
                "%(n)s messages failed: %(reason)s.",
                n,
                reason=_describe_reason(reason, language),
            )
            for reason, n in figures.reasons
        ),
    ]


def format_refusal_reason(reason: str, language: Language) -> str:
    """Return why the provider refused messages: its HTTP status, or the code of a 200."""
    kind, _, number = reason.partition("_")
    if kind == "http":
        return f"HTTP {number}"
    if kind == "code":
        return language.gettext("code %(n)s", n=number)
    return language.gettext("other reasons")


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _describe_reason(reason: str, language: Language) -> str:
    head, colon, rest = reason.partition(": ")
    label = language.gettext(REASON_LABELS[head]) if head in REASON_LABELS else head
    return shorten(label + colon + rest, MAX_REASON_LENGTH)


def _describe_late(late: LateMailing, zone: str, language: Language) -> str:
    end = language.format_time(late.end_at, zone)
    if late.status == "paused":
        text = PAUSED_LABELS[PauseReason(late.pause_reason or PauseReason.MANUAL)]
        return language.gettext(text, id=late.id, end=end)
    if late.never:
        return language.ngettext(
            "Mailing #%(id)s: %(n)s message cannot leave before its end on %(end)s, as the hours "
            "in which its recipient may be written to come too late.",
            "Mailing #%(id)s: %(n)s messages cannot leave before its end on %(end)s, as the hours "
            "in which their recipients may be written to come too late.",
            late.never,
            id=late.id,
            end=end,
        )
    return language.ngettext(
        "Mailing #%(id)s will not be through by its end on %(end)s at its present pace: %(n)s "
        "message is due, %(pace)s a minute are leaving.",
        "Mailing #%(id)s will not be through by its end on %(end)s at its present pace: %(n)s "
        "messages are due, %(pace)s a minute are leaving.",
        late.due,
        id=late.id,
        end=end,
        pace=language.format_number(round(late.pace)),
    )
