"""The report's catalogue: every text has a Russian translation, and every status a label."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

from shared.domain.statuses import MailingStatus
from shared.report.figures import DayFigures, LateMailing, MailingDay
from shared.report.localization import DATE_FORMATS
from shared.report.phrases import REASON_LABELS, STATUS_LABELS
from shared.report.rendering import render_html, render_text
from tests.support.translations import (
    check_all_translated,
    check_compiled,
    check_extractable,
    check_templates,
    extract_texts,
)

REPORT = Path(__file__).parents[3] / "shared" / "report"
RUSSIAN = REPORT / "translations" / "ru" / "LC_MESSAGES" / "messages.po"


def test_every_text_is_translated(tmp_path: Path) -> None:
    check_extractable(REPORT)
    texts = extract_texts(REPORT, tmp_path / "messages.pot")
    assert len(texts) > 40
    check_all_translated(texts, RUSSIAN)


def test_compiled_catalogue_equals_its_source() -> None:
    check_compiled(RUSSIAN)


def test_templates_have_no_untranslated_words() -> None:
    check_templates(sorted((REPORT / "templates").iterdir()), {"admin", "mailings", "nbsp"})


def test_every_mailing_status_has_a_label() -> None:
    assert STATUS_LABELS.keys() == {status.value for status in MailingStatus}


def test_every_language_has_a_catalogue_or_is_the_source() -> None:
    assert DATE_FORMATS.keys() == {"en", *(path.name for path in RUSSIAN.parents[2].glob("*/"))}


def test_russian_report_has_no_english_words() -> None:
    at = datetime(2026, 11, 22, 7, tzinfo=UTC)
    counts = dict.fromkeys(("audience", "sent", "failed", "expired", "cancelled"), 1)
    mailings = [
        MailingDay(
            number,
            "Имя",
            "Текст",
            at,
            at,
            status,
            deleted=True,
            pending=1,
            in_doubt=1,
            median=median,
            p95=median,
            **counts,
        )
        for number, (status, median) in enumerate(
            zip(STATUS_LABELS, (1.0, 200.0, 9000.0, None, None), strict=True)
        )
    ]
    figures = DayFigures(date(2026, 11, 22), "UTC", mailings * 5)
    figures.reasons = [(reason, n) for n, reason in enumerate(REASON_LABELS, 1)]
    figures.openings = [("unavailable", 1)]
    figures.late = [
        LateMailing(1, at, "running", 0, 5, 1.5),
        LateMailing(2, at, "paused", 0, 0, 0.0),
        LateMailing(3, at, "running", 7, 0, 0.0),
    ]
    page = re.sub(r"<[^>]*>", " ", render_html(figures, "ru", None))
    for text in (render_text(figures, "ru", None), page):
        assert set(re.findall("[A-Za-z]{2,}", text)) <= {"SMS", "UTC", "nbsp"}
