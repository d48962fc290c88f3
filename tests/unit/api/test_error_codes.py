"""The catalogue of error codes is complete, and its page is up to date."""

import ast
from collections.abc import Iterator, Mapping

from api.error_codes import CODES, FIELD_CODES, ROW_CODES, render_page
from api.errors import Conflict
from api.http import problems
from api.openapi.problem_examples import CODES as EXAMPLE_CODES
from tests.support.system import ROOT

RAISED = {"Conflict": 1, "FieldError": 1, "invalid_value": 0, "TextFormat": 1}


def literal_codes(raised: Mapping[str, int] = RAISED) -> Iterator[tuple[str, str]]:
    """Yield each code that the API's source gives to an error: where, and the code."""
    for path in sorted((ROOT / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values = [each.value for each in node.keywords if each.arg == "code"]
            position = raised.get(name)
            if position is not None and len(node.args) > position:
                values.append(node.args[position])
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", value.value


def test_the_page_is_generated_from_the_catalogue() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    assert page == render_page(), "run: python -m api.error_codes > docs/errors.md"


def test_every_code_in_the_source_is_in_the_catalogue() -> None:
    known = CODES.keys() | FIELD_CODES.keys()
    found = list(literal_codes())
    assert len(found) > 30
    assert [each for each in found if each[1] not in known] == []


def test_every_code_of_a_rejected_row_is_in_the_catalogue() -> None:
    of_rows = [each for each in literal_codes({"CellError": 2}) if "_rows.py" in each[0]]
    assert len(of_rows) > 8
    assert [each for each in of_rows if each[1] not in ROW_CODES] == []


def test_every_kind_of_error_has_a_code_of_its_status() -> None:
    for kind in problems.Problem.__subclasses__():
        assert kind.status in CODES[kind.code].statuses, kind
    for error, status in problems.STATUS_CODES.items():
        if error is not Conflict:  # its callers choose a code
            assert status in CODES[error.code].statuses, error
    for status, code in (problems.HTTP_CODES | EXAMPLE_CODES).items():
        assert status in CODES[code].statuses
