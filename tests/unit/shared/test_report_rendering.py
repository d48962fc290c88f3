"""The report's e-mail: escaping, both languages, number formats, the table and the message."""

import csv
import io
from datetime import UTC, date, datetime
from email import message_from_bytes
from email.policy import default
from html.parser import HTMLParser

import pytest

from shared.report.figures import DayFigures, LateMailing, MailingDay
from shared.report.localization import DATE_FORMATS, get_language
from shared.report.phrases import list_attention_points
from shared.report.rendering import MAX_CARDS, make_mail, render_csv, render_html, render_text

DAY = date(2026, 11, 22)
LANGUAGES = list(DATE_FORMATS)
NASTY = "<script>alert('x')</script> & \"more\""


def make_mailing(id_: int = 7, **changed: object) -> MailingDay:
    fields: dict[str, object] = {
        "id": id_,
        "name": None,
        "first_line": "Hello",
        "start_at": datetime(2026, 11, 22, 7, tzinfo=UTC),
        "end_at": datetime(2026, 11, 22, 20, tzinfo=UTC),
        "status": "running",
        "audience": 12345,
        "deleted": False,
        "sent": 12000,
        "failed": 5,
        "expired": 0,
        "cancelled": 0,
        "pending": 340,
        "in_doubt": 2,
        "median": 1.25,
        "p95": 700.0,
    }
    return MailingDay(**{**fields, **changed})  # type: ignore[arg-type]


def make_day(*mailings: MailingDay, zone: str = "Europe/Moscow") -> DayFigures:
    return DayFigures(DAY, zone, list(mailings))


class PageReader(HTMLParser):
    """Checks that every element is closed in order; collects links and text, forbids scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe", "style"), tag
        self.links += [value or "" for name, value in attributes if name == "href"]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse_page(html: str) -> PageReader:
    reader = PageReader()
    reader.feed(html)
    assert not reader.open
    return reader


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [None, NASTY])
def test_texts_are_escaped(language: str, name: str | None) -> None:
    figures = make_day(make_mailing(name=name, first_line=NASTY))
    figures.reasons = [(f"rejected: {NASTY}", 3)]
    page = parse_page(render_html(figures, language, "https://notify.example.com"))
    assert page.text.count(NASTY) >= 2
    assert page.links == ["https://notify.example.com/admin/mailings/7"]


def test_deleted_mailing_has_no_link() -> None:
    page = parse_page(
        render_html(make_day(make_mailing(deleted=True)), "en", "https://notify.example.com")
    )
    assert not page.links
    assert "running, deleted" in page.text


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "No mailing was active on this day."), ("ru", "В этот день рассылок не было.")],
)
def test_day_without_mailings_is_stated(language: str, expected: str) -> None:
    assert expected in parse_page(render_html(make_day(), language, None)).text
    assert expected in render_text(make_day(), language, None)


def test_numbers_and_times_follow_the_language() -> None:
    english = render_text(make_day(make_mailing(failed=-1200)), "en", None)
    russian = render_text(make_day(make_mailing(failed=-1200)), "ru", None)
    assert "Accepted: 12,000" in english
    assert "Принято: 12\u00a0000" in russian
    assert "Failed: −1,200" in english
    assert "С ошибкой: −1\u00a0200" in russian
    assert "Median wait: 1.2\u00a0s" in english
    assert "Медиана ожидания: 1,2\u00a0с" in russian
    assert "12\u00a0min" in english
    assert "12\u00a0мин" in russian
    assert "22 Nov 2026, 10:00 MSK" in english
    assert "22 ноября 2026, 10:00 MSK" in russian
    assert "22 Nov 2026, 12:45 UTC+0545" in render_text(
        make_day(make_mailing(), zone="Asia/Kathmandu"), "en", None
    )


def test_share_is_rounded_down() -> None:
    assert get_language("en").format_share(0.99999) == "99.9%"
    assert get_language("ru").format_share(1.0) == "100,0\u00a0%"
    assert make_mailing(sent=6, failed=-5).share == 1.0
    assert make_mailing(sent=0, failed=-5).share is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_attention_points_are_in_the_readers_language(language: str) -> None:
    figures = make_day(make_mailing())
    end = datetime(2026, 11, 23, 18, tzinfo=UTC)
    figures.late = [
        LateMailing(1, end, "running", 0, 5000, 12.4),
        LateMailing(2, end, "paused", 0, 0, 0.0),
        LateMailing(3, end, "running", 77, 0, 0.0),
    ]
    figures.openings = [("unavailable", 3)]
    figures.reasons = [("attempts exhausted", 17), ("rejected: no such phone", 4)]
    points = list_attention_points(figures, get_language(language))
    assert len(points) == 6
    assert not any(cause in point for point in points for cause in ("unavailable", "rejected:"))
    assert "no such phone" in points[-1]
    assert list_attention_points(make_day(make_mailing()), get_language(language)) == []
    nothing = {"en": "Nothing.", "ru": "Ничего."}[language]
    assert f"\n- {nothing}\n" in render_text(make_day(make_mailing()), language, None)
    assert nothing in parse_page(render_html(make_day(make_mailing()), language, None)).text


def test_page_of_very_many_mailings_stays_below_the_mail_programs_limit() -> None:
    figures = make_day(*(make_mailing(n, sent=n, first_line="x" * 200) for n in range(1, 201)))
    html = render_html(figures, "ru", "https://notify.example.com")
    assert len(html.encode()) < 100_000
    assert [link.rpartition("/")[2] for link in parse_page(html).links] == [
        str(n) for n in range(201 - MAX_CARDS, 201)
    ]
    assert len(render_csv(figures).splitlines()) == 201


def test_formulas_are_escaped_in_the_table() -> None:
    figures = make_day(make_mailing(name='=HYPERLINK("http://x")', first_line='+7 916, "quoted"\t'))
    (row,) = csv.DictReader(io.StringIO(render_csv(figures)))
    assert row["name"] == '\'=HYPERLINK("http://x")'
    assert row["text"] == '\'+7 916, "quoted"\t'
    assert row["sent"] == "12000"
    assert row["p95_wait_s"] == "700.000"


@pytest.mark.parametrize("sign", "=+-@\t\r＝＋－＠")
def test_every_formula_sign_is_escaped_in_the_table(sign: str) -> None:
    figures = make_day(make_mailing(name=f"{sign}1+1", first_line=f"{sign}1+1"))
    (row,) = csv.DictReader(io.StringIO(render_csv(figures), newline=""))
    assert row["name"] == row["text"] == f"'{sign}1+1"


@pytest.mark.parametrize("language", LANGUAGES)
def test_mail_has_short_ascii_lines_and_all_its_parts(language: str) -> None:
    mail = make_mail(
        make_day(make_mailing(first_line="Привет")),
        language,
        "Рассылки <n@example.com>",
        ["a@example.com", "b@example.com"],
        None,
    )
    content = mail.as_bytes()
    assert content.isascii()
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    assert b"\n" not in content.replace(b"\r\n", b"")
    read_back = message_from_bytes(content, policy=default)
    assert read_back["subject"] == mail["subject"]
    assert {"Date", "From", "To", "Message-ID"} <= set(read_back.keys())
    kinds = [part.get_content_type() for part in read_back.walk()]
    assert kinds == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/csv"),
    ]
    (table,) = read_back.iter_attachments()
    assert table.get_filename() == "mailings-2026-11-22.csv"
    assert "Привет" in table.get_content()
