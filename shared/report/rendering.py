"""Makes the report's e-mail: plain text, HTML, and a table for spreadsheets."""

import csv
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP

from shared.domain.spreadsheets import escape_formula
from shared.report.figures import DayFigures, MailingDay
from shared.report.html import as_html
from shared.report.phrases import COUNTS, attention, facts, title
from shared.report.wording import WORDS

# What any mail server takes: seven bits, short lines.
POLICY = SMTP.clone(cte_type="7bit")


def make_mail(
    figures: DayFigures, language: str, sender: str, recipients: list[str], public_url: str | None
) -> EmailMessage:
    """The whole message, ready to be handed to a mail server."""
    words = WORDS[language]
    day = figures.day.isoformat()
    subject = words.subject if figures.mailings else words.subject_quiet
    mail = EmailMessage(POLICY)
    mail["Subject"] = subject.format(
        day=words.day(figures.day), sent=words.number(figures.total("sent"))
    )
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = datetime.now(UTC)
    # The same for every attempt at this day's report, so that a mail program shows one.
    mail["Message-ID"] = f"<report-{day}@{sender.rpartition('@')[2].rstrip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(as_text(figures, language, public_url))
    mail.add_alternative(as_html(figures, language, public_url), subtype="html")
    mail.add_attachment(
        as_csv(figures).encode("utf-8-sig"),
        maintype="text",
        subtype="csv",
        filename=f"mailings-{day}.csv",
        params={"charset": "utf-8"},
    )
    return mail


def as_text(figures: DayFigures, language: str, public_url: str | None) -> str:
    """The report for who reads plain text."""
    words = WORDS[language]
    heading = words.title.format(day=words.day(figures.day))
    lines = [f"{heading} ({figures.zone})", ""]
    if not figures.mailings:
        lines += [words.quiet, ""]
    else:
        totals = (f"{getattr(words, n)}: {words.number(figures.total(n))}" for n in COUNTS)
        lines += [f"{words.total}: " + ", ".join(totals), ""]
    lines += [f"{words.attention}:", *(f"- {point}" for point in attention(figures, words)), ""]
    for mailing in figures.mailings:
        lines.append(title(mailing, words))
        if public_url and not mailing.deleted:
            lines.append(f"  {public_url}/admin/mailings/{mailing.id}")
        lines += [f"  {label}: {value}" for label, value in facts(mailing, figures.zone, words)]
        lines.append("")
    lines.append(words.footer.format(zone=figures.zone))
    return "\n".join(lines) + "\n"


def as_csv(figures: DayFigures) -> str:
    """One row a mailing, for a spreadsheet; instants in UTC, waits in seconds."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(
        [
            *("day", "mailing_id", "name", "text", "start_at", "end_at", "status", "deleted"),
            *COUNTS,
            *("share_accepted", "median_wait_s", "p95_wait_s"),
        ]
    )
    for mailing in figures.mailings:
        writer.writerow(_row(figures, mailing))
    return output.getvalue()


def _row(figures: DayFigures, m: MailingDay) -> list[object]:
    instants = (
        at.astimezone(UTC).isoformat().replace("+00:00", "Z") for at in (m.start_at, m.end_at)
    )
    return [
        *(
            figures.day.isoformat(),
            m.id,
            escape_formula(m.name or ""),
            escape_formula(m.first_line),
        ),
        *(*instants, m.status, "yes" if m.deleted else "no"),
        *(getattr(m, name) for name in COUNTS),
        *("" if x is None else f"{x:.3f}" for x in (m.share, m.median, m.p95)),
    ]
