"""Cells of CSV files: formulas are escaped on export and restored on import."""

import pytest

from shared.domain.spreadsheets import escape_formula, unescape_formula


@pytest.mark.parametrize(
    "cell", ["=1+1", "+7", "-1", "@sum", "\t=1", "\r=1", "\n=1", "＝1", "=cmd|' /C calc'!A0"]
)
def test_formulas_are_escaped_and_restored(cell: str) -> None:
    assert escape_formula(cell) == "'" + cell
    assert unescape_formula(escape_formula(cell)) == cell


@pytest.mark.parametrize("cell", ["", "vip", "a=b", "'quoted'", "'", "7"])
def test_other_cells_are_unchanged(cell: str) -> None:
    assert unescape_formula(escape_formula(cell)) == cell == escape_formula(cell)
