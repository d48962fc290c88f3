"""The e-mail about an event of a mailing: what has happened, what to do, and the figures."""

from email.message import EmailMessage
from typing import NamedTuple

from shared.config.settings import ReportSettings
from shared.domain.statuses import PauseReason
from shared.report.event import Event
from shared.report.localization import Language, get_language
from shared.report.phrases import COUNT_LABELS, N_, shorten
from shared.report.rendering import get_environment, start_mail

MAX_SUBJECT_TITLE, MAX_TITLE = 50, 80
SHOWN_COUNTS = ("sent", "failed", "expired", "cancelled", "pending")


class Wording(NamedTuple):
    """The texts of one kind of event; `advice` may be empty."""

    subject: str
    headline: str
    advice: str


PAUSED = {
    PauseReason.REFUSALS: Wording(
        N_("“%(title)s” is paused: the provider refuses its messages"),
        N_("The mailing is paused: the provider refuses too many of its messages."),
        N_(
            "Find the cause, then resume the mailing: the answers are counted anew. Messages that "
            "were rejected have failed and can be tried again. If the mailing itself is wrong, "
            "cancel it."
        ),
    ),
    PauseReason.AUDIENCE_LIMIT: Wording(
        N_("“%(title)s” is paused: it would reach too many clients"),
        N_("The mailing is paused: it would reach more clients than its limit permits."),
        N_(
            "Nothing was sent. If the recipients are right, raise the limit and resume the "
            "mailing; otherwise correct its recipients."
        ),
    ),
    PauseReason.BUDGET: Wording(
        N_("“%(title)s” is paused: the budget is used up"),
        N_("The mailing is paused: the budget is used up."),
        N_("Raise the budget, or wait for the next day or month, and resume the mailing."),
    ),
}
LATE = Wording(
    N_("“%(title)s” will not finish before its end"),
    N_("At its present pace the mailing will not finish before its end."),
    N_("What is left then expires. To send it nevertheless, move the end of the mailing."),
)
FINISHED = Wording(
    N_("“%(title)s” is done"),
    N_("The mailing is done."),
    "",
)


class Line(NamedTuple):
    """A figure with its label."""

    name: str
    label: str
    n: int
    formatted: str


def make_notification(
    event: Event, settings: ReportSettings, recipients: list[str]
) -> EmailMessage:
    """Return the whole message, ready for a mail server."""
    subject = format_subject(event, get_language(settings.report_language))
    name = f"mailing-{event.mailing_id}-event-{event.id}"
    mail = start_mail(subject, settings.report_from, recipients, name)
    mail.set_content(render_notification("notification.txt", event, settings))
    html = render_notification("notification.html", event, settings)
    mail.add_alternative(html, subtype="html")
    return mail


def render_notification(template: str, event: Event, settings: ReportSettings) -> str:
    """Return the mail's text or HTML."""
    language = get_language(settings.report_language)
    wording = _wording(event)
    return (
        get_environment(settings.report_language)
        .get_template(template)
        .render(
            event=event,
            zone=settings.report_timezone,
            public_url=settings.public_url,
            tone={"paused": "danger", "late": "warning", "finished": "success"}[event.kind],
            title=language.gettext(
                "Mailing %(id)s: %(title)s", id=event.mailing_id, title=_title(event, MAX_TITLE)
            ),
            headline=language.gettext(wording.headline),
            facts=list_facts(event, language),
            advice=language.gettext(wording.advice) if wording.advice else "",
            lines=list_counts(event, language),
        )
    )


def format_subject(event: Event, language: Language) -> str:
    """Return the subject, on one line."""
    return language.gettext(_wording(event).subject, title=_title(event, MAX_SUBJECT_TITLE))


def list_facts(event: Event, language: Language) -> list[str]:
    """Return sentences with the figures that explain the event."""
    if event.kind != "late":
        return []
    never, due, pace = (event.details[name] for name in ("never", "due", "pace"))
    facts = []
    if never:
        facts.append(
            language.ngettext(
                "%(n)s message cannot leave before the end, as the hours in which its recipient "
                "may be written to come too late.",
                "%(n)s messages cannot leave before the end, as the hours in which their "
                "recipients may be written to come too late.",
                never,
            )
        )
    if due:
        facts.append(
            language.ngettext(
                "%(n)s message is due, %(pace)s a minute are leaving.",
                "%(n)s messages are due, %(pace)s a minute are leaving.",
                due,
                pace=language.format_number(round(pace)),
            )
        )
    return facts


def list_counts(event: Event, language: Language) -> list[Line]:
    """Return the audience and its parts, those that are not empty."""
    numbers = [("audience", event.audience)]
    numbers += [(name, getattr(event.counts, name)) for name in SHOWN_COUNTS]
    return [
        Line(name, language.gettext(COUNT_LABELS[name]), n, language.format_number(n))
        for name, n in numbers
        if n or name in ("audience", "sent")
    ]


def _wording(event: Event) -> Wording:
    if event.kind == "paused":
        return PAUSED[PauseReason(event.details["pause_reason"])]
    return LATE if event.kind == "late" else FINISHED


def _title(event: Event, length: int) -> str:
    """Return the mailing's name, or the beginning of its text, on one line."""
    return shorten(" ".join((event.name or event.text).split()), length)
