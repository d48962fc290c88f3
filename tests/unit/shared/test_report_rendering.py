"""What the report's e-mail says and how: escaped, whole in both languages, harmless as a table."""

import csv
import io
import re
import string
from datetime import UTC, date, datetime
from email import message_from_bytes
from email.policy import default
from html.parser import HTMLParser

import pytest

from shared.domain.statuses import MailingStatus
from shared.report.figures import DayFigures, LateMailing, MailingDay
from shared.report.html import MOST_CARDS, as_html
from shared.report.phrases import attention
from shared.report.rendering import as_csv, as_text, make_mail
from shared.report.wording import WORDS, Words

DAY = date(2026, 11, 22)
LANGUAGES = list(WORDS)
NASTY = "<script>alert('x')</script> & \"more\""


def mailing(id_: int = 7, **changed: object) -> MailingDay:
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


def day(*mailings: MailingDay, zone: str = "Europe/Moscow") -> DayFigures:
    return DayFigures(DAY, zone, list(mailings))


class Reader(HTMLParser):
    """Checks that every element is closed in its turn; notes what may be fetched or run."""

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


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return reader


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [None, NASTY])
def test_texts_are_escaped(language: str, name: str | None) -> None:
    figures = day(mailing(name=name, first_line=NASTY))
    figures.reasons = [(f"rejected: {NASTY}", 3)]
    page = read(as_html(figures, language, "https://notify.example.com"))
    assert page.text.count(NASTY) >= 2
    assert page.links == ["https://notify.example.com/admin/mailings/7"]


def test_a_deleted_mailing_is_not_linked() -> None:
    page = read(as_html(day(mailing(deleted=True)), "en", "https://notify.example.com"))
    assert not page.links
    assert "running, deleted" in page.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_day_without_mailings_says_so(language: str) -> None:
    words = WORDS[language]
    assert words.quiet in read(as_html(day(), language, None)).text
    assert words.quiet in as_text(day(), language, None)


def test_both_languages_have_everything_and_take_the_same_values() -> None:
    english, russian = WORDS["en"], WORDS["ru"]
    for name in Words._fields:
        one, other = getattr(english, name), getattr(russian, name)
        assert other, name
        assert type(one) is type(other), name
        if isinstance(one, dict):
            assert one.keys() == other.keys(), name
        if isinstance(one, str):
            assert places(one) == places(other), name
            spoken = re.search("[a-z]{3}", re.sub(r"\{\w+\}", "", one))
            assert not spoken or re.search("[а-я]", re.sub(r"\{\w+\}", "", other)), name
    assert english.statuses.keys() == {status.value for status in MailingStatus}


def places(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_numbers_and_times_are_written_as_the_language_does() -> None:
    english = as_text(day(mailing(failed=-1200)), "en", None)
    russian = as_text(day(mailing(failed=-1200)), "ru", None)
    assert "Accepted: 12,000" in english
    assert "Принято: 12\u00a0000" in russian
    assert "Failed: −1,200" in english
    assert "Не удалось: −1\u00a0200" in russian
    assert "Median wait: 1.2\u00a0s" in english
    assert "Медиана ожидания: 1,2\u00a0с" in russian
    assert "12\u00a0min" in english
    assert "12\u00a0мин" in russian
    assert "22 Nov 2026, 10:00 MSK" in english
    assert "22 ноября 2026, 10:00 MSK" in russian
    assert "22 Nov 2026, 12:45 UTC+0545" in as_text(
        day(mailing(), zone="Asia/Kathmandu"), "en", None
    )


def test_not_quite_all_is_not_all() -> None:
    assert WORDS["en"].percentage(0.99999) == "99.9%"
    assert WORDS["ru"].percentage(1.0) == "100,0\u00a0%"
    assert mailing(sent=6, failed=-5).share == 1.0
    assert mailing(sent=0, failed=-5).share is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_needs_attention_is_said_in_the_readers_words(language: str) -> None:
    figures = day(mailing())
    end = datetime(2026, 11, 23, 18, tzinfo=UTC)
    figures.late = [
        LateMailing(1, end, "running", 0, 5000, 12.4),
        LateMailing(2, end, "paused", 0, 0, 0.0),
        LateMailing(3, end, "running", 77, 0, 0.0),
    ]
    figures.openings = [("unavailable", 3)]
    figures.reasons = [("attempts exhausted", 17), ("rejected: no such phone", 4)]
    points = attention(figures, WORDS[language])
    assert len(points) == 6
    assert not any(cause in point for point in points for cause in ("unavailable", "rejected:"))
    assert "no such phone" in points[-1]
    assert attention(day(mailing()), WORDS[language]) == [WORDS[language].nothing]


def test_very_many_mailings_stay_within_what_mail_programs_show() -> None:
    figures = day(*(mailing(n, sent=n, first_line="x" * 200) for n in range(1, 201)))
    html = as_html(figures, "ru", "https://notify.example.com")
    assert len(html.encode()) < 100_000
    assert [link.rpartition("/")[2] for link in read(html).links] == [
        str(n) for n in range(201 - MOST_CARDS, 201)
    ]
    assert len(as_csv(figures).splitlines()) == 201


def test_the_table_is_harmless_in_a_spreadsheet() -> None:
    figures = day(mailing(name='=HYPERLINK("http://x")', first_line='+7 916, "quoted"\t'))
    (row,) = csv.DictReader(io.StringIO(as_csv(figures)))
    assert row["name"] == '\'=HYPERLINK("http://x")'
    assert row["text"] == '\'+7 916, "quoted"\t'
    assert row["sent"] == "12000"
    assert row["p95_wait_s"] == "700.000"


@pytest.mark.parametrize("sign", "=+-@\t\r＝＋－＠")
def test_every_formula_sign_is_escaped_in_the_table(sign: str) -> None:
    figures = day(mailing(name=f"{sign}1+1", first_line=f"{sign}1+1"))
    (row,) = csv.DictReader(io.StringIO(as_csv(figures), newline=""))
    assert row["name"] == row["text"] == f"'{sign}1+1"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_mail_is_one_that_every_server_and_program_takes(language: str) -> None:
    mail = make_mail(
        day(mailing(first_line="Привет")),
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
    (table,) = read_back.iter_attachments()  # type: ignore[attr-defined]
    assert table.get_filename() == "mailings-2026-11-22.csv"
    assert "Привет" in table.get_content()
