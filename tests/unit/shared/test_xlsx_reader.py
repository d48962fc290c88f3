"""Workbooks: values as a person sees them, sheets, and limits of what a small file unpacks to."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

import pytest
from openpyxl import Workbook  # type: ignore[import-untyped]

from shared.client_import import workbook_limits
from shared.client_import.bad_file import BadFile, BadHeader, FileTooLarge, UnreadableFile
from shared.client_import.columns import plan_client_columns
from shared.client_import.xlsx_reader import XlsxReader, format_cell

SHEET = "xl/worksheets/sheet1.xml"
OPEN: list[XlsxReader] = []


@pytest.fixture(autouse=True)
def _close_readers() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def workbook(*rows: Iterable[Any], title: str = "Clients") -> bytes:
    book = Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(list(row))
    return save(book)


def save(book: Any) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def read(data: bytes, limit: int | None = None) -> XlsxReader:
    reader = XlsxReader(io.BytesIO(data).read, plan_client_columns, limit)
    OPEN.append(reader)
    return reader


def replace_part(data: bytes, name: str, change: Any) -> bytes:
    """Return the workbook with one part of its archive changed."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            content = old.read(part)
            new.writestr(part, change(content) if part == name else content)
    return stream.getvalue()


def test_rows_have_their_numbers_and_texts() -> None:
    data = workbook(
        [],
        ["Телефон", "Имя", "code", None],
        [79161234567, "Пётр", 7.5],
        [],
        ["8 916 123-45-68", None, True],
        [79161234569.0, "x", 1, "beyond the header"],
    )
    found = read(data)
    assert found.columns == {"phone": 0}
    assert found.extras == {"Имя": 1, "code": 2}
    assert [(row.line, row.cells) for row in found] == [
        (3, ["79161234567", "Пётр", "7.5"]),
        (5, ["8 916 123-45-68", "", "TRUE"]),
        (6, ["79161234569", "x", "1", "beyond the header"]),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((79161234567, "79161234567"), (79161234567.0, "79161234567"), (916, "916")),
        *((0.1 + 0.2, "0.3"), (-5, "-5"), (None, ""), (False, "FALSE"), ("007", "007")),
        *((datetime(2026, 11, 28), "2026-11-28"), (date(2026, 1, 2), "2026-01-02")),
        *((datetime(2026, 11, 28, 9, 5), "2026-11-28T09:05:00"), (time(9, 5), "09:05:00")),
        (timedelta(hours=30, minutes=1), "30:01:00"),
    ],
)
def test_values_are_written_as_a_person_would(value: object, text: str) -> None:
    assert format_cell(value) == text


def test_formulas_count_by_their_stored_values() -> None:
    data = workbook(["phone", "sum"], [79161234567, "=1+1"])
    stored = replace_part(
        data, SHEET, lambda xml: re.sub(b"<v ?/>|<v></v>", b"<v>2</v>", xml, count=1)
    )
    assert stored != data
    assert [row.cells for row in read(stored)] == [["79161234567", "2"]]


def test_first_visible_sheet_with_a_header_is_read() -> None:
    book = Workbook()
    book.active.title = "Empty"
    hidden = book.create_sheet("Hidden")
    hidden.append(["phone"])
    hidden.sheet_state = "hidden"
    for title in ("Clients", "Notes"):
        book.create_sheet(title).append(["phone", title])
    found = read(save(book))
    assert found.header == ["phone", "Clients"]
    assert found.other_sheets == ["Notes"]


def test_wrong_dimensions_hide_no_row() -> None:
    data = workbook(["phone", "tag"], *([79161234567 + n, "x"] for n in range(5)))
    wrong = replace_part(data, SHEET, lambda xml: xml.replace(b'ref="A1:B6"', b'ref="A1"'))
    assert wrong != data
    assert len(list(read(wrong))) == 5


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (b"PK\x03\x04....", UnreadableFile, "workbook_damaged"),
        (workbook(["phone"], [1])[:-200], UnreadableFile, "workbook_damaged"),
        (workbook(), BadHeader, "file_empty"),
        (workbook(["name"]), BadHeader, "column_missing"),
    ],
    ids=["no archive", "cut", "empty", "no phone"],
)
def test_unusable_workbook_is_explained(data: bytes, kind: type[BadFile], code: str) -> None:
    with pytest.raises(kind) as raised:
        list(read(data))
    assert raised.value.code == code


def test_size_is_limited() -> None:
    data = workbook(["phone"], [1])
    with pytest.raises(FileTooLarge):
        read(data, limit=len(data) - 1)
    assert list(read(data, limit=len(data)))


ROW = b'<row r="2"><c r="A2"><v>1</v></c></row>'


def bomb(filling: bytes, part: str = SHEET, end: bytes = b"</sheetData>") -> bytes:
    return replace_part(
        workbook(["phone"], [1]), part, lambda xml: xml.replace(end, filling + end, 1)
    )


@pytest.mark.parametrize(
    "data",
    [
        bomb(b" " * (workbook_limits.MAX_SMALL_BYTES + 1)),
        bomb(b'<row r="9">' + b'<c r="A9"/>' * 500_000 + b"</row>"),
        bomb(b"<x/>" * 3_000_000),
        bomb(b'<row r="9" x="' + b"y" * 5_000_000 + b'"/>'),
        bomb(b"<x/>" * 3_000_000, "xl/styles.xml", b"</styleSheet>"),
    ],
    ids=["ratio", "one row", "outside of rows", "one token", "styles"],
)
def test_archive_that_unpacks_to_too_much_is_refused_unread(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openpyxl.load_workbook", None)
    assert len(data) < 200_000
    with pytest.raises(UnreadableFile) as raised:
        read(data)
    assert raised.value.code == "workbook_too_large"


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_PARTS", 5), ("MAX_EXPANDED_BYTES", 1_000), ("MAX_CELLS", 100)]
)
def test_parts_bytes_and_cells_are_counted(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = workbook(["phone"], *([n] for n in range(101)))
    assert len(list(read(data))) == 101
    monkeypatch.setattr(workbook_limits, "SCANNED_BYTES", 0)
    monkeypatch.setattr(workbook_limits, limit, value)
    with pytest.raises(UnreadableFile, match="too large when it is unpacked"):
        read(data)


def test_entities_are_refused() -> None:
    def declare(xml: bytes) -> bytes:
        return b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + xml[xml.index(b"<worksheet") :]

    with pytest.raises(UnreadableFile):
        list(read(replace_part(workbook(["phone"], [1]), SHEET, declare)))


@pytest.mark.parametrize("row", [b'<row r="999999999999"><c r="A1"><v>1</v></c></row>', ROW * 3])
def test_odd_numbers_of_rows_do_no_harm(row: bytes) -> None:
    assert len(list(read(bomb(row)))) <= 2
