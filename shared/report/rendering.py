"""Renders the report: plain text and HTML from templates, a table for spreadsheets, the e-mail."""

import csv
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache, partial

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from shared.domain.spreadsheets import escape_formula
from shared.report import phrases
from shared.report.figures import DayFigures, MailingDay
from shared.report.localization import get_language

# Mail programs cut off what is longer than about 100 kB; the attached table has all mailings.
MAX_CARDS = 19
# A new column is the last one.
CSV_COUNTS = tuple(name for name in phrases.COUNT_LABELS if name != "opted_out")
# Every mail server accepts this: seven bits, short lines.
MAIL_POLICY = SMTP.clone(cte_type="7bit")


def make_mail(
    figures: DayFigures,
    language_code: str,
    sender: str,
    recipients: list[str],
    public_url: str | None,
) -> EmailMessage:
    """Return the whole message, ready for a mail server."""
    day = figures.day.isoformat()
    subject = phrases.format_subject(figures, get_language(language_code))
    mail = start_mail(subject, sender, recipients, f"report-{day}")
    mail.set_content(render_text(figures, language_code, public_url))
    mail.add_alternative(render_html(figures, language_code, public_url), subtype="html")
    mail.add_attachment(
        render_csv(figures).encode("utf-8-sig"),
        maintype="text",
        subtype="csv",
        filename=f"mailings-{day}.csv",
        params={"charset": "utf-8"},
    )
    return mail


def start_mail(subject: str, sender: str, recipients: list[str], name: str) -> EmailMessage:
    """Return a message without content.

    `name` is the same for every attempt at one mail, so that a mail program shows it once.
    """
    mail = EmailMessage(MAIL_POLICY)
    mail["Subject"] = subject
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = datetime.now(UTC)
    mail["Message-ID"] = f"<{name}@{sender.rpartition('@')[2].rstrip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    return mail


def render_html(figures: DayFigures, language_code: str, public_url: str | None) -> str:
    """Return the report as a page; of very many mailings it shows those with most changes."""
    shown = sorted(figures.mailings, key=_count_changes, reverse=True)[:MAX_CARDS]
    return _render(
        "report.html",
        figures,
        language_code,
        public_url,
        shown=sorted(shown, key=lambda mailing: mailing.id),
        hidden=len(figures.mailings) - len(shown),
    )


def render_text(figures: DayFigures, language_code: str, public_url: str | None) -> str:
    return _render("report.txt", figures, language_code, public_url)


def _render(
    template: str,
    figures: DayFigures,
    language_code: str,
    public_url: str | None,
    **values: object,
) -> str:
    language = get_language(language_code)
    return (
        get_environment(language_code)
        .get_template(template)
        .render(
            figures=figures,
            public_url=public_url,
            points=phrases.list_attention_points(figures, language),
            cost=phrases.format_cost(figures, language),
            footer=phrases.format_footer(figures.zone, language),
            **values,
        )
    )


@cache
def get_environment(language_code: str) -> Environment:
    """Return the environment of the templates in one language."""
    language = get_language(language_code)
    environment = Environment(
        loader=PackageLoader("shared.report"),
        autoescape=select_autoescape(["html"]),
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {
        "number": language.format_number,
        "share": language.format_share,
        "time": language.format_time,
        "day": language.format_day,
        "refusal_reason": partial(phrases.format_refusal_reason, language=language),
    }
    environment.globals |= {
        "language": language_code,
        "shorten": phrases.shorten,
        "counts_of": partial(phrases.list_counts, language=language),
        "title": partial(phrases.format_title, language=language),
        "status": partial(phrases.format_status, language=language),
        "shares_and_waits": partial(phrases.list_shares_and_waits, language=language),
    }
    return environment


def render_csv(figures: DayFigures) -> str:
    """Return one row a mailing, for a spreadsheet; instants in UTC, waits in seconds."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(
        [
            *("day", "mailing_id", "name", "text", "start_at", "end_at", "status", "deleted"),
            *CSV_COUNTS,
            *("share_accepted", "median_wait_s", "p95_wait_s", "sms_segments", "opted_out"),
        ]
    )
    writer.writerows(_csv_row(figures, mailing) for mailing in figures.mailings)
    return output.getvalue()


def _csv_row(figures: DayFigures, m: MailingDay) -> list[object]:
    instants = (
        at.astimezone(UTC).isoformat().replace("+00:00", "Z") for at in (m.start_at, m.end_at)
    )
    return [
        *(figures.day.isoformat(), m.id),
        *(escape_formula(m.name or ""), escape_formula(m.first_line)),
        *(*instants, m.status, "yes" if m.deleted else "no"),
        *map(m.count, CSV_COUNTS),
        *("" if x is None else f"{x:.3f}" for x in (m.share, m.median, m.p95)),
        m.segments,
        m.opted_out,
    ]


def _count_changes(m: MailingDay) -> int:
    return abs(m.sent) + abs(m.failed) + abs(m.expired) + abs(m.opted_out) + abs(m.cancelled)
