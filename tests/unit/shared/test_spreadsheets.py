"""Cells of CSV files: formulas are escaped on export and restored on import."""

import csv
import re
from io import StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.domain.spreadsheets import escape_formula, unescape_formula

SEPARATORS = ",;\t"
# What a spreadsheet skips before a sign, and the signs.
EXECUTED = re.compile(r"[\s\"]*[=+\-@＝＋－＠]")
TEXTS = st.text(st.sampled_from("=+-@＝,;\t\r\n\"' a1\xa0"), max_size=12) | st.text()


@pytest.mark.parametrize(
    ("cell", "escaped"),
    [
        *((cell, f"'{cell}") for cell in ("=1+1", "+7", "-1", "@sum", "＝1", " =1", '"=1"')),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("a;=1,=2", "a;'=1,'=2"),
        ("x\n=1", "x\n'=1"),
        ("'=1", "''=1"),
        ("a;'=1", "a;''=1"),
        ('a;"=1"', 'a;\'"=1"'),
    ],
)
def test_formulas_are_escaped_and_restored(cell: str, escaped: str) -> None:
    assert escape_formula(cell) == escaped
    assert unescape_formula(escaped) == cell


@pytest.mark.parametrize("cell", ["", "vip", "a=b", "'quoted'", "'", "7", "a;b", "1,5", "5-7; 9"])
def test_other_cells_are_unchanged(cell: str) -> None:
    assert unescape_formula(escape_formula(cell)) == cell == escape_formula(cell)


@given(TEXTS)
def test_escaping_is_undone_exactly(cell: str) -> None:
    assert unescape_formula(escape_formula(cell)) == cell


@given(st.lists(TEXTS, min_size=1, max_size=4))
@example(["a;=1"])
@example(['a,=1+1&"', "b"])
@example(["x;", "=1"])
@example(['a;"=1"'])
def test_no_locale_reads_a_formula(cells: list[str]) -> None:
    """However the file is separated, and whatever a spreadsheet makes of quotes."""
    for written in ",;":
        text = StringIO()
        csv.writer(text, delimiter=written).writerow([escape_formula(cell) for cell in cells])
        for separator in SEPARATORS:
            rows = csv.reader(StringIO(text.getvalue(), newline=""), delimiter=separator)
            for cell in (cell for row in rows for cell in row):
                assert not EXECUTED.match(cell), (written, separator, cell, text.getvalue())
            for part in re.split(rf"[{separator}\r\n]", text.getvalue()):
                assert not EXECUTED.match(part), (written, separator, part, text.getvalue())
