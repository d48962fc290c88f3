"""The admin UI's catalogue: every text has a Russian translation, and every code a text."""

import re
from pathlib import Path

from flask import Flask
from flask_babel import Babel

from api.admin.presenters.import_errors import CELL_ERRORS
from api.admin.presenters.labels import OUTCOMES, REASONS, describe_reason
from api.error_codes import ROW_CODES
from shared.domain.statuses import Reason
from tests.support.translations import (
    check_all_translated,
    check_compiled,
    check_extractable,
    check_templates,
    extract_texts,
)
from worker.provider.outcomes import Failure, Outcome

ADMIN = Path(__file__).parents[3] / "api" / "admin"
RUSSIAN = ADMIN / "translations" / "ru" / "LC_MESSAGES" / "messages.po"


def test_every_text_is_translated(tmp_path: Path) -> None:
    check_extractable(ADMIN)
    texts = extract_texts(ADMIN, tmp_path / "messages.pot")
    assert len(texts) > 300
    check_all_translated(texts, RUSSIAN)


def test_every_code_has_a_text() -> None:
    """Cover the reasons of messages, outcomes of requests and errors of imported rows."""
    readers = source("shared/client_import/row_rules.py")
    codes = {
        *re.findall(r'InvalidCell\("([a-z_]+)"', readers),
        *re.findall(r'InvalidPhone\("([a-z_]+)"', source("shared/domain/phones.py")),
        *re.findall(r'CellError\(name, .*"([a-z_]+)"\)', readers),
        *re.findall(r'CellError\("", \w+, "([a-z_]+)"\)', source("api/clients/csv_rows.py")),
        *re.findall(r'CellError\("", COUNT_DETAIL.*"([a-z_]+)"', readers),
        *re.findall(r"'(client_deleted)'", source("shared/client_import/merge.py")),
    }
    assert len(codes) >= 10
    assert codes == set(CELL_ERRORS)
    assert codes <= set(ROW_CODES)
    assert {str(outcome) for outcome in Outcome} <= set(OUTCOMES)
    assert {str(code) for code in (*Reason, *Failure)} <= set(REASONS)
    babel = Flask("texts")
    Babel(babel, locale_selector=lambda: "en")
    with babel.test_request_context():
        assert describe_reason("rejected: http_400") == "refused by the provider: HTTP 400"
        assert describe_reason("missing attribute: name") == "the client lacks “name”"
        assert describe_reason("code_7") == "code 7"


def source(path: str) -> str:
    return (ADMIN.parents[1] / path).read_text()


def test_compiled_catalogue_equals_its_source() -> None:
    check_compiled(RUSSIAN)


def test_templates_have_no_untranslated_words() -> None:
    allowed = {"HTTP", "aria", "describedby", "docs", "invalid", "true"}
    check_templates(sorted((ADMIN / "templates").rglob("*.html")), allowed)
