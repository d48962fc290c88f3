"""Problems in Russian: every text that one can show is translated, and English stays as it was."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.http import HTTP_STATUS_CODES

from api.clients import row_error_texts
from api.error_codes import CODES, FIELD_CODES, ROW_CODES
from api.errors import FieldError, InvalidFields
from api.http import file_problems, validation_texts
from api.http.localisation import LANGUAGES, SOURCE_LANGUAGE, TRANSLATIONS_PATH, translate
from api.http.problem_titles import TITLES
from api.http.validation_texts import describe_error
from shared.domain.error_texts import ErrorText, error_text
from tests.support.translations import (
    check_all_translated,
    check_compiled,
    check_extractable,
    extract_texts,
)
from tests.unit.api.test_error_codes import literal_codes

ROOT = Path(__file__).parents[3]
RUSSIAN = TRANSLATIONS_PATH / "ru" / "LC_MESSAGES" / "messages.po"
KEYWORDS = ("--no-default-keywords", "-k", "error_text")


def test_every_text_is_translated(tmp_path: Path) -> None:
    check_extractable(ROOT / "api")
    for package in ("api", "shared"):
        rules = str(TRANSLATIONS_PATH / "babel.cfg")
        texts = extract_texts(ROOT / package, tmp_path / f"{package}.pot", KEYWORDS, rules)
        assert len(texts) > 5
        check_all_translated(texts, RUSSIAN)


def test_compiled_catalogue_equals_its_source() -> None:
    check_compiled(RUSSIAN)


def test_every_language_has_a_catalogue_or_is_the_source() -> None:
    found = {path.name for path in TRANSLATIONS_PATH.glob("*/") if path.name != "__pycache__"}
    assert set(LANGUAGES) == {SOURCE_LANGUAGE, *found}


def test_every_status_of_a_problem_has_a_title_in_russian() -> None:
    for code, each in CODES.items():
        for status in each.statuses:
            assert TITLES[status] == HTTP_STATUS_CODES[status], code
            assert re.search("[а-я]", translate(TITLES[status], "ru")), code


def test_every_code_of_a_value_has_a_text_with_a_template() -> None:
    """A code is raised with a text of `error_text`, which mypy checks, or is one of pydantic's."""
    sources = ROOT.glob("api/**/*.py")
    raising = [path.name for path in sources if "PydanticCustomError(" in path.read_text()]
    assert raising == ["invalid_value.py"]
    raised = {code for _, code in literal_codes({"FieldError": 1, "invalid_value": 0})}
    of_formats = {code for _, code in literal_codes({"TextFormat": 1})}
    of_pydantic = validation_texts.DETAILS.keys() | validation_texts.TEMPLATES.keys()
    assert FIELD_CODES.keys() <= raised | of_formats | of_pydantic


def test_every_code_of_a_file_has_a_template() -> None:
    readers = (ROOT / "shared/client_import").glob("*.py")
    codes = {
        code
        for reader in readers
        for code in re.findall(
            r'(?:BadHeader|UnreadableFile|FileTooLarge)\([^()]*?(?:\([^()]*\)[^()]*?)*?"([a-z_]+)"',
            reader.read_text(),
        )
    }
    assert len(codes) > 7
    assert codes == file_problems.TEMPLATES.keys()


def test_every_code_of_a_row_has_a_template() -> None:
    assert row_error_texts.TEMPLATES.keys() == ROW_CODES.keys()


class Values(BaseModel):
    """Fields of every kind that a body can break rules of."""

    model_config = ConfigDict(extra="forbid")

    short: Annotated[str, Field(min_length=2)] = "ab"
    long: Annotated[str, Field(max_length=2)] = "ab"
    pattern: Annotated[str, Field(pattern="^a")] = "a"
    whole: int = 1
    flag: Annotated[bool, Field(strict=True)] = True
    least: Annotated[int, Field(ge=2)] = 2
    most: Annotated[int, Field(le=2)] = 2
    few: Annotated[list[int], Field(min_length=2)] = [1, 2]
    many: Annotated[dict[str, int], Field(max_length=2)] = {}
    chosen: Literal["x", "y", "z"] = "x"


@pytest.mark.parametrize(
    ("field", "value", "english", "russian"),
    [
        ("short", "a", "must have at least 2 characters", "длина не меньше 2 симв."),
        ("long", "abc", "must have at most 2 characters", "длина не больше 2 симв."),
        ("pattern", "b", "must match pattern '^a'", "должно соответствовать шаблону '^a'"),
        (
            "whole",
            1.5,
            "must be a valid integer, got a number with a fractional part",
            "нужно целое число, без дробной части",
        ),
        ("flag", 1, "must be a valid boolean", "нужно true или false"),
        ("least", 1, "must be greater than or equal to 2", "нужно число не меньше 2"),
        ("most", 3, "must be less than or equal to 2", "нужно число не больше 2"),
        (
            "few",
            [1],
            "must have at least 2 items after validation, not 1",
            "нужно элементов: не меньше 2",
        ),
        (
            "many",
            {"a": 1, "b": 2, "c": 3},
            "Dictionary should have at most 2 items after validation, not more",
            "допустимо элементов: не больше 2",
        ),
        (
            "chosen",
            "q",
            "must be 'x', 'y' or 'z'",
            "допустимо одно из значений: 'x', 'y', 'z'",
        ),
        ("other", 1, "is not known here", "такого поля или параметра здесь нет"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_errors_of_pydantic_are_translated(
    field: str, value: Any, english: str, russian: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        Values.model_validate({field: value})
    (error,) = raised.value.errors()
    text = describe_error(error)
    assert (text, translate(text, "en"), translate(text, "ru")) == (english, english, russian)


def test_texts_within_texts_are_translated() -> None:
    errors = [FieldError(error_text("is required"), "missing", "/phone")] * 3
    text = InvalidFields(*errors).detail
    assert text == "/phone: is required (and 2 more)"
    assert translate(text, "ru") == "/phone: обязательно (и ещё ошибок: 2)"


def test_a_text_without_a_translation_stays_english() -> None:
    assert translate(error_text("about %(n)s percent", n=5), "ru") == "about 5 percent"
    assert translate(ErrorText("5 %", "5 %", {}), "ru") == "5 %"
