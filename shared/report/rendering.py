"""Makes the report's e-mail: plain text, HTML that ordinary mail programs show well, and a CSV."""

import csv
import io
from email.message import EmailMessage
from html import escape
from zoneinfo import ZoneInfo

from shared.report.figures import DayFigures, MailingDay
from shared.report.wording import WORDS, Words

# Background colours of the bar's parts; each is named in the table beside it, too.
COLOURS = {
    "sent": "#1a7f37",
    "pending": "#8c959f",
    "failed": "#cf222e",
    "expired": "#bf8700",
    "cancelled": "#57606a",
}
COUNTS = ("audience", "sent", "failed", "expired", "cancelled", "pending", "in_doubt")
FONT = "font-family:-apple-system,'Segoe UI',Roboto,Arial,sans-serif"
CELL = f"{FONT};padding:6px 8px;border-bottom:1px solid #d8dee4;font-size:13px;color:#1f2328"
NUMBER = f"{CELL};text-align:right;white-space:nowrap"
HEAD = f"{CELL};font-weight:600;color:#59636e;text-align:right;white-space:nowrap"
LINE = "font-size:14px;line-height:20px;color:#1f2328;margin:4px 0"
# A cell that begins so would be run as a formula by a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def make_mail(
    figures: DayFigures, language: str, sender: str, recipients: list[str], public_url: str | None
) -> EmailMessage:
    """The whole message, ready to be handed to a mail server."""
    words = WORDS[language]
    day = figures.day.isoformat()
    mail = EmailMessage()
    mail["Subject"] = words.subject.format(day=day, sent=_number(figures.total("sent"), language))
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    # The same for every attempt at this day's report, so that a mail program shows one.
    mail["Message-ID"] = f"<report-{day}@{sender.rpartition('@')[2].rstrip('>')}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(as_text(figures, language))
    mail.add_alternative(as_html(figures, language, public_url), subtype="html")
    mail.add_attachment(
        as_csv(figures).encode("utf-8-sig"),
        maintype="text",
        subtype="csv",
        filename=f"mailings-{day}.csv",
    )
    return mail


def as_text(figures: DayFigures, language: str) -> str:
    """The report for who reads plain text."""
    words = WORDS[language]
    lines = [words.title.format(day=figures.day.isoformat()), ""]
    if not figures.mailings:
        lines += [words.quiet, ""]
    for mailing in figures.mailings:
        lines.append(_title(mailing, words))
        lines += [f"  {label}: {value}" for label, value in _facts(mailing, figures.zone, language)]
        lines.append("")
    if figures.mailings:
        totals = (f"{getattr(words, n)}: {_number(figures.total(n), language)}" for n in COUNTS)
        lines += [f"{words.total}: " + ", ".join(totals), ""]
    lines += [words.attention, *(f"- {point}" for point in attention(figures, words)), ""]
    lines.append(words.footer.format(zone=figures.zone))
    return "\n".join(lines) + "\n"


def as_html(figures: DayFigures, language: str, public_url: str | None) -> str:
    """The report for mail programs: tables and inline styles, no image, nothing to fetch."""
    words = WORDS[language]
    parts = [
        '<!doctype html><html lang="' + language + '"><head><meta charset="utf-8">',
        '<meta name="color-scheme" content="light"></head>',
        f'<body style="margin:0;padding:24px;background:#f6f8fa;{FONT}">',
        '<div style="max-width:860px;margin:0 auto;background:#ffffff;border:1px solid #d8dee4;'
        'border-radius:8px;padding:24px">',
        f'<h1 style="{FONT};font-size:22px;margin:0 0 16px;color:#1f2328">'
        f"{escape(words.title.format(day=figures.day.isoformat()))}</h1>",
    ]
    if figures.mailings:
        parts.append(_summary(figures, words, language))
        parts += [_card(m, figures.zone, words, language, public_url) for m in figures.mailings]
    else:
        parts.append(f'<p style="{FONT};{LINE}">{escape(words.quiet)}</p>')
    points = "".join(
        f'<li style="{FONT};{LINE}">{escape(p)}</li>' for p in attention(figures, words)
    )
    parts += [
        f'<h2 style="{FONT};font-size:16px;margin:24px 0 8px">{escape(words.attention)}</h2>',
        f'<ul style="margin:0;padding-left:20px">{points}</ul>',
        f'<p style="{FONT};font-size:12px;line-height:18px;color:#59636e;margin:24px 0 0">'
        f"{escape(words.footer.format(zone=figures.zone))}</p></div></body></html>",
    ]
    return "".join(parts)


def as_csv(figures: DayFigures) -> str:
    """One row a mailing, for a spreadsheet; instants in UTC, waits in seconds."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(
        [
            *("day", "mailing_id", "name", "text", "start_at", "end_at", "status", *COUNTS),
            *("share_accepted", "median_wait_s", "p95_wait_s"),
        ]
    )
    for m in figures.mailings:
        writer.writerow(
            [figures.day.isoformat(), m.id, _harmless(m.name or ""), _harmless(m.first_line)]
            + [m.start_at.isoformat(), m.end_at.isoformat(), m.status]
            + [getattr(m, name) for name in COUNTS]
            + ["" if x is None else f"{x:.3f}" for x in (m.share, m.median, m.p95)]
        )
    return output.getvalue()


def attention(figures: DayFigures, words: Words) -> list[str]:
    """What somebody should look at, most urgent first."""
    points = [words.too_slow.format(ids=f"#{id_}") for id_ in figures.too_slow]
    points += [words.openings.format(n=n, reason=reason) for reason, n in figures.openings]
    points += [words.reasons.format(n=n, reason=reason) for reason, n in figures.reasons]
    return points or [words.nothing]


def _summary(figures: DayFigures, words: Words, language: str) -> str:
    cells = "".join(
        f'<td style="padding:0 20px 16px 0;{FONT}"><div style="font-size:24px;font-weight:600;'
        f'color:{COLOURS.get(name, "#1f2328")}">{_number(figures.total(name), language)}</div>'
        f'<div style="font-size:12px;color:#59636e">{escape(getattr(words, name))}</div></td>'
        for name in COUNTS
    )
    return f'<table role="presentation" cellspacing="0" cellpadding="0"><tr>{cells}</tr></table>'


def _card(m: MailingDay, zone: str, words: Words, language: str, public_url: str | None) -> str:
    title = escape(_title(m, words))
    if public_url and not m.deleted:
        address = escape(f"{public_url}/admin/mailings/{m.id}")
        title = f'<a href="{address}" style="color:#0969da;text-decoration:none">{title}</a>'
    rows = "".join(
        f'<tr><td style="{CELL};color:#59636e">{escape(label)}</td>'
        f'<td style="{NUMBER}">{escape(value)}</td></tr>'
        for label, value in _facts(m, zone, language)
    )
    return (
        f'<h2 style="{FONT};font-size:16px;margin:20px 0 4px">{title}</h2>{_bar(m, words)}'
        f'<table width="100%" cellspacing="0" cellpadding="0">{rows}</table>'
    )


def _bar(m: MailingDay, words: Words) -> str:
    """The day's changes and what is left, as a stacked bar of table cells."""
    parts = [(name, getattr(m, name)) for name in COLOURS if getattr(m, name) > 0]
    whole = sum(n for _, n in parts)
    if not whole:
        return ""
    cells = "".join(
        f'<td title="{escape(getattr(words, name))}" width="{max(1, round(100 * n / whole))}%"'
        f' bgcolor="{COLOURS[name]}" style="height:10px;font-size:0;line-height:0">&nbsp;</td>'
        for name, n in parts
    )
    return (
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0"'
        f' style="margin:4px 0 8px"><tr>{cells}</tr></table>'
    )


def _facts(m: MailingDay, zone: str, language: str) -> list[tuple[str, str]]:
    words = WORDS[language]
    facts = [
        (words.start, _time(m.start_at.astimezone(ZoneInfo(zone)))),
        (words.end, _time(m.end_at.astimezone(ZoneInfo(zone)))),
        (words.status, words.statuses[m.status] + (f", {words.deleted}" if m.deleted else "")),
        *((getattr(words, name), _number(getattr(m, name), language)) for name in COUNTS),
    ]
    if m.share is not None:
        facts.append((words.share, f"{m.share:.1%}"))
    if m.median is not None and m.p95 is not None:
        facts += [(words.median, _seconds(m.median)), (words.p95, _seconds(m.p95))]
    return facts


def _title(m: MailingDay, words: Words) -> str:
    line = m.name or m.first_line
    return f"{words.mailing} {m.id}: {line if len(line) <= 80 else line[:79] + '…'}"


def _time(at: object) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _number(n: int, language: str) -> str:
    return f"{n:,}".replace(",", "\u00a0" if language == "ru" else ",")


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
