"""Columns of imported files: names that are certain, attributes, mappings, exports."""

import pytest

from shared.client_import.bad_file import BadHeader
from shared.client_import.columns import (
    EXPORT_COLUMNS,
    ColumnMapping,
    ColumnPlan,
    plan_client_columns,
    propose_columns,
)
from tests.support.import_cases import HEADERS


@pytest.mark.parametrize(("header", "target"), HEADERS)
def test_headers_as_people_have_them(header: str, target: str) -> None:
    assert propose_columns([header]) == ([target], False)


def test_every_column_with_a_name_is_kept() -> None:
    header = ["Телефон", "2nd", "№", "", "first-name", "phone 2", "Кличка/имя", "x" * 40]
    assert plan_client_columns(header) == ColumnPlan(
        {"phone": 0},
        {"_2nd": 1, "column_3": 2, "first_name": 4, "phone_2": 5, "Кличка_имя": 6, "x" * 32: 7},
        [],
    )


def test_thirty_attribute_columns_are_kept() -> None:
    names = [f"a{n}" for n in range(30)]
    assert list(plan_client_columns(["phone", *names]).extras) == names


def test_export_is_recognised_by_its_whole_header() -> None:
    attributes = ["code", "created_at", "id", "tel", "zone"]
    plan = plan_client_columns([*EXPORT_COLUMNS, *attributes])
    assert plan.exact
    assert list(plan.extras) == attributes
    assert plan.columns == {"phone": 1, "operator_code": 2, "tag": 3, "timezone": 4}
    cut = plan_client_columns(["id", "phone", "tag", "code"])
    assert not cut.exact
    assert cut.extras == {"id": 0, "code": 3}
    rejected = plan_client_columns(
        ["line", "phone", "operator_code", "tag", "timezone", "id", "reason"]
    )
    assert (rejected.exact, rejected.extras, rejected.ignored) == (
        False,
        {"id": 5},
        ["line", "reason"],
    )


def test_mapping_decides() -> None:
    columns = {"Номер": "phone", "code": "operator_code", "zone": None, "#4": "city"}
    plan = plan_client_columns(["Номер", "code", "zone", "город"], ColumnMapping(columns))
    assert plan == ColumnPlan({"phone": 0, "operator_code": 1}, {"city": 3}, ["zone"])
    two = ["Телефон", "Моб. телефон"]
    mapped = plan_client_columns(two, ColumnMapping({"Телефон": "home"}))
    assert (mapped.columns, mapped.extras) == ({"phone": 1}, {"home": 0})


@pytest.mark.parametrize(
    ("header", "columns", "code"),
    [
        (["Телефон", "Моб. телефон"], {}, "column_twice"),
        (["phone", "a b", "a-b"], {}, "column_twice"),
        (["номер"], {}, "column_missing"),
        (["phone"], {"Phone": "phone"}, "mapped_column"),
        (["phone", "x", "x"], {"x": None}, "mapped_column"),
        (["phone"], {"#2": "tag"}, "mapped_column"),
    ],
)
def test_header_that_cannot_be_mapped_is_explained(
    header: list[str], columns: dict[str, str | None], code: str
) -> None:
    with pytest.raises(BadHeader) as raised:
        plan_client_columns(header, ColumnMapping(columns))
    assert raised.value.code == code
