"""The report as HTML for mail programs: tables and inline styles, no image, nothing to fetch."""

from html import escape

from shared.report.figures import DayFigures, MailingDay
from shared.report.phrases import COUNTS, attention, status, times, title
from shared.report.wording import WORDS, Words

# Mail programs cut off what is longer than about 100 kB; the rest is in the attached table.
MOST_CARDS = 20

# The bar's colours, in its order; the figures beside it carry them too.
COLOURS = {
    "sent": "#1a7f37",
    "failed": "#cf222e",
    "expired": "#bf8700",
    "cancelled": "#6e7781",
    "pending": "#afb8c1",
}
INK, FAINT, LINE, PAPER = "#1f2328", "#59636e", "#d8dee4", "#f6f8fa"
FONT = "font-family:'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
TABLE = 'table role="presentation" cellspacing="0" cellpadding="0" border="0"'


def as_html(figures: DayFigures, language: str, public_url: str | None) -> str:
    """The whole page."""
    words = WORDS[language]
    heading = escape(words.title.format(day=words.day(figures.day)))
    points = attention(figures, words)
    content = [
        f'<h1 style="{FONT};font-size:24px;line-height:30px;margin:0;color:{INK}">{heading}</h1>',
        _paragraph(escape(figures.zone), f"font-size:13px;color:{FAINT};margin:2px 0 20px"),
    ]
    if figures.mailings:
        content.append(_totals(figures, words))
    else:
        content.append(_paragraph(escape(words.quiet), f"font-size:16px;color:{INK}"))
    content.append(_attention(points, words, points != [words.nothing]))
    shown = sorted(figures.mailings, key=_size, reverse=True)[:MOST_CARDS]
    content += [
        _card(mailing, figures.zone, words, public_url)
        for mailing in sorted(shown, key=lambda mailing: mailing.id)
    ]
    if hidden := len(figures.mailings) - len(shown):
        more = escape(words.more.format(n=words.number(hidden)))
        content.append(_paragraph(more, f"font-size:14px;color:{INK};margin:20px 0 0"))
    footer = escape(words.footer.format(zone=figures.zone))
    content.append(
        _paragraph(
            footer,
            f"font-size:12px;line-height:18px;color:{FAINT};margin:28px 0 0;"
            f"border-top:1px solid {LINE};padding-top:14px",
        )
    )
    return (
        f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light"><title>{heading}</title></head>\n'
        f'<body style="margin:0;padding:0;background-color:{PAPER}">'
        f"{_preheader(figures, words)}"
        f'<{TABLE} width="100%" bgcolor="{PAPER}"><tr><td align="center" style="padding:24px 8px">'
        f'<{TABLE} width="100%" bgcolor="#ffffff" style="max-width:720px;border:1px solid {LINE};'
        'border-radius:8px"><tr><td align="left" style="padding:28px">\n'
        + "\n".join(content)
        + "\n</td></tr></table></td></tr></table></body></html>\n"
    )


def _preheader(figures: DayFigures, words: Words) -> str:
    """What the list of mails shows beside the subject."""
    text = words.quiet
    if figures.mailings:
        counts = (n for n in COUNTS if figures.total(n))
        text = ", ".join(f"{getattr(words, n)}: {words.number(figures.total(n))}" for n in counts)
    return (
        '<div style="display:none;max-height:0;overflow:hidden;font-size:1px;color:#ffffff">'
        f"{escape(text)}</div>"
    )


def _paragraph(content: str, style: str) -> str:
    return f'<p style="{FONT};margin:0;{style}">{content}</p>'


def _totals(figures: DayFigures, words: Words) -> str:
    """The day in figures: those accepted large, the others beside them."""
    share = "" if figures.share is None else f" · {words.percentage(figures.share)}"
    large = (
        f'<{TABLE} align="left"><tr><td valign="bottom" style="{FONT};padding:0 28px 8px 0;'
        'white-space:nowrap">'
        f'<div style="font-size:36px;line-height:40px;font-weight:600;color:{COLOURS["sent"]}">'
        f"{words.number(figures.total('sent'))}</div>"
        f'<div style="font-size:13px;line-height:18px;color:{FAINT}">{escape(words.sent)}{share}'
        "</div></td></tr></table>"
    )
    small = "".join(
        _figure(words, name, figures.total(name), 20, 14) for name in COUNTS if name != "sent"
    )
    parts = {name: figures.total(name) for name in COLOURS}
    return _row(large + small) + _bar(parts, words, 14)


def _row(figures: str) -> str:
    """Figures side by side, on as many lines as they need: they are tables that float."""
    return f'<{TABLE} width="100%"><tr><td>{figures}</td></tr></table>'


def _figure(words: Words, name: str, n: int, size: int, above: int = 0) -> str:
    colour = COLOURS[name] if n and name in COLOURS and name != "pending" else INK if n else FAINT
    return (
        f'<{TABLE} align="left"><tr><td style="{FONT};padding:{above}px 16px 8px 0;'
        'white-space:nowrap">'
        f'<div style="font-size:{size}px;line-height:{size + 6}px;font-weight:600;color:{colour}">'
        f"{words.number(n)}</div>"
        f'<div style="font-size:12px;line-height:18px;color:{FAINT}">'
        f"{escape(getattr(words, name))}</div></td></tr></table>"
    )


def _attention(points: list[str], words: Words, urgent: bool) -> str:
    edge, ground = ("#bf8700", "#fff8e5") if urgent else (COLOURS["sent"], "#f1faf3")
    rows = "".join(
        _paragraph(escape(point), f"font-size:14px;line-height:20px;color:{INK};margin:4px 0 0")
        for point in points
    )
    heading = _paragraph(
        escape(words.attention), f"font-size:14px;line-height:20px;font-weight:600;color:{INK}"
    )
    return (
        f'<{TABLE} width="100%" style="margin:20px 0 0"><tr><td width="4" bgcolor="{edge}"'
        f' style="font-size:0">&nbsp;</td><td bgcolor="{ground}" style="padding:12px 14px">'
        f"{heading}{rows}</td></tr></table>"
    )


def _card(m: MailingDay, zone: str, words: Words, public_url: str | None) -> str:
    heading = escape(title(m, words))
    if public_url and not m.deleted:
        address = escape(f"{public_url}/admin/mailings/{m.id}")
        heading = f'<a href="{address}" style="color:#0969da;text-decoration:none">{heading}</a>'
    span = f"{words.time(m.start_at, zone)} – {words.time(m.end_at, zone)}"
    first = f" · {m.first_line}" if m.name and m.first_line else ""
    if len(first) > 100:
        first = first[:99] + "…"
    small = f"font-size:13px;line-height:18px;color:{FAINT}"
    counts = "".join(_figure(words, name, getattr(m, name), 16) for name in COUNTS)
    waits = " · ".join(f"{label}: {value}" for label, value in times(m, words))
    return (
        f'<{TABLE} width="100%" style="margin:24px 0 0;border-top:1px solid {LINE}"><tr>'
        f'<td style="padding:16px 0 0">'
        f'<h2 style="{FONT};font-size:16px;line-height:22px;margin:0;color:{INK}">{heading}</h2>'
        f"{_paragraph(escape(status(m, words) + first), small)}{_paragraph(escape(span), small)}"
        f"{_bar({name: getattr(m, name) for name in COLOURS}, words, 8)}"
        f"{_row(counts)}{_paragraph(escape(waits), small) if waits else ''}"
        "</td></tr></table>"
    )


def _bar(parts: dict[str, int], words: Words, height: int) -> str:
    """The day's changes and what is left, as a stacked bar of table cells."""
    shown = [(name, n) for name, n in parts.items() if n > 0]
    whole = sum(n for _, n in shown)
    if not whole:
        return ""
    cells = "".join(
        f'<td title="{escape(getattr(words, name))}: {words.number(n)}"'
        f' width="{max(1, round(100 * n / whole))}%" bgcolor="{COLOURS[name]}" height="{height}"'
        f' style="height:{height}px;font-size:0;line-height:0">&nbsp;</td>'
        for name, n in shown
    )
    return f'<{TABLE} width="100%" style="margin:10px 0"><tr>{cells}</tr></table>'


def _size(m: MailingDay) -> int:
    """How much happened to it that day."""
    return abs(m.sent) + abs(m.failed) + abs(m.expired) + abs(m.cancelled)
