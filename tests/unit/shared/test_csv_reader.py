"""CSV files: encodings, delimiters, headers, quotes, and the cells of rows."""

import io
from collections.abc import Callable
from functools import partial

import pytest

from shared.client_import.bad_file import BadFile, BadHeader, FileTooLarge, UnreadableFile
from shared.client_import.columns import COLUMN_NAMES, plan_named_columns
from shared.client_import.csv_reader import CsvReader
from shared.client_import.row_rules import ZONE_DETAIL, ZONE_MISSING, ClientRow, RowParser
from shared.client_import.text_source import READ_BYTES
from shared.domain.phones import PHONE_DETAIL, SHORTENED_DETAIL

PLAN = partial(plan_named_columns, COLUMN_NAMES, ("phone",))


def sheet(data: bytes, at_once: int | None = None, limit: int | None = None) -> CsvReader:
    """Return a reader of the file, which arrives in pieces of `at_once` bytes."""
    stream = io.BytesIO(data)
    read: Callable[[int], bytes] = stream.read
    if at_once is not None:
        return CsvReader(lambda n: read(min(n, at_once)), PLAN, limit)
    return CsvReader(read, PLAN, limit)


def rows(data: bytes, at_once: int | None = None) -> list[tuple[int, list[str]]]:
    return [(row.line, row.cells) for row in sheet(data, at_once)]


RUSSIAN = "Телефон;Тег;Часовой пояс\n79161234567;Пётр;Europe/Moscow\n"


@pytest.mark.parametrize("at_once", [None, 1, 2, 3, 7])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1251", "cp866", "koi8-r"],
)
def test_encoding_is_detected(encoding: str, at_once: int | None) -> None:
    found = sheet(RUSSIAN.encode(encoding), at_once)
    assert found.columns == {"phone": 0, "tag": 1, "timezone": 2}
    assert [row.cells for row in found] == [["79161234567", "Пётр", "Europe/Moscow"]]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251"])
@pytest.mark.parametrize("ascii_rows", [0, 1, 6_553, 6_554, 100_000])
def test_encoding_is_detected_late_in_the_file(encoding: str, ascii_rows: int) -> None:
    data = "phone,tag\n" + "79161234567,plain\n" * ascii_rows + "79161234567,друг"
    found = list(sheet(data.encode(encoding)))
    assert len(found) == ascii_rows + 1
    assert found[-1].cells == ["79161234567", "друг"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_newlines_are_detected(delimiter: str, newline: str) -> None:
    lines = ["tag,phone", '"a,b;c\td",79161234567', "", "e,79161234568"]
    lines = [line.replace(",", delimiter) if "a,b" not in line else line for line in lines]
    lines[1] = f'"a,b;c\td"{delimiter}79161234567'
    assert rows(newline.join(lines).encode()) == [
        (2, ["a,b;c\td", "79161234567"]),
        (4, ["e", "79161234568"]),
    ]


def test_delimiter_line_of_excel_is_recognised() -> None:
    assert rows(b"sep=;\r\nphone;tag\r\n1;a,b,c\r\n") == [(2, ["1", "a,b,c"])]


@pytest.mark.parametrize(
    "header",
    [
        "phone,operator_code,tag,timezone",
        "Phone , Operator Code,TAG,Time Zone",
        "телефон,код оператора,метка,часовой пояс",
        "Номер телефона,Код мобильного оператора,Тег,Временная зона",
    ],
)
def test_column_names_are_recognised(header: str) -> None:
    columns = sheet(header.encode()).columns
    assert columns == {"phone": 0, "operator_code": 1, "tag": 2, "timezone": 3}


def test_unknown_columns_are_reported() -> None:
    found = sheet("Имя,phone,,заметка\nИван,79161234567,,x".encode())
    assert found.columns == {"phone": 1}
    assert found.ignored == ["Имя", "заметка"]


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"", BadHeader, "first line must name the columns"),
        (b"\n\n \n", BadHeader, "first line must name the columns"),
        (b"\xef\xbb\xbf", BadHeader, "first line must name the columns"),
        (b"79161234567,vip\n", BadHeader, "phone must be among them"),
        (b"name,tag\nIvan,vip\n", BadHeader, "phone must be among them"),
        ("phone,телефон\n1,2".encode(), BadHeader, "column phone twice"),
        (b'"phone\n1', BadHeader, "quotes are wrong"),
        (b"PK\x03\x04\x14\x00xl/workbook", UnreadableFile, "Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1", UnreadableFile, "old Excel workbook"),
        ("phone\n1".encode("utf-32"), UnreadableFile, "UTF-32"),
        ("phone,имя\n1,Пётр\n".encode("utf-16") + b"\x00\xd8\x00\x00", UnreadableFile, "neither"),
        ("имя,phone\nЯна Яковлевна,1".encode("mac-cyrillic"), UnreadableFile, "encoding"),
        ("phone,name\n1,Café Zoé\n2,Müller".encode("cp1252"), UnreadableFile, "encoding"),
        ("phone,tag\n1,друг".encode("koi8-r"), UnreadableFile, "encoding"),
        (b"phone\n7916\x001234567\n", UnreadableFile, "not text"),
        ("phone,tag\n1,друг\n".encode() + b"2,\xff\xfe\n", UnreadableFile, "neither UTF-8"),
        ("phone,tag\n1,друг\n".encode("cp1251") + b"2,\x98\n", UnreadableFile, "neither UTF-8"),
        ("phone,tag\n1,Пётр".encode("cp1251") + b"\x98", UnreadableFile, "neither UTF-8"),
        (b"phone\n" + b"1" * 70_000, UnreadableFile, "Line 2 is longer"),
        (b'phone,tag\n1,"open\n' + b"2,b\n" * 1_000, UnreadableFile, "In row 2 a quote"),
    ],
)
def test_unusable_file_is_explained(data: bytes, kind: type[BadFile], says: str) -> None:
    with pytest.raises(kind, match=says):
        list(sheet(data))


def test_file_over_the_limit_is_rejected() -> None:
    data = b"phone\n" + b"79161234567\n" * 100
    assert len(list(sheet(data, limit=len(data)))) == 100
    with pytest.raises(FileTooLarge, match="larger than 1205 bytes"):
        list(sheet(data, limit=len(data) - 1))


@pytest.mark.parametrize("endless", [b"1", b"x\n", b'\n","'])
def test_memory_is_bounded_for_any_input(endless: bytes) -> None:
    """A line or a quoted cell without end is not read to its end."""
    pieces = [b'phone\n"']
    sent = 0

    def read(n: int) -> bytes:
        nonlocal sent
        sent += n
        return pieces.pop() if pieces else endless * (n // len(endless))

    with pytest.raises(UnreadableFile):
        list(CsvReader(read, PLAN))
    assert sent < 4 * READ_BYTES


def test_row_with_wrong_quotes_does_not_affect_others() -> None:
    found = list(sheet(b'phone,tag\n1,"a"b\n2,c"d\n3,"e ""f"""\n'))
    assert [(row.line, row.fault is None) for row in found] == [(2, False), (3, True), (4, True)]
    assert [row.cells for row in found[1:]] == [["2", 'c"d'], ["3", 'e "f"']]


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (b'phone,note\n1,"a\nb\r\nc"\n\n2,d\n', [2, 4]),
        (b'"phone","two\nlines"\n1,a\n2,b\n'.replace(b"\\", b""), [2, 3]),
        (b"\n\nphone\n1\n", [4]),
        (b"sep=;\nphone;tag\n1;a\n", [2]),
        (b'phone,tag\n1,"a"b\n2,c\n', [2, 3]),
    ],
)
def test_rows_have_the_numbers_that_a_spreadsheet_shows(data: bytes, numbers: list[int]) -> None:
    assert [line for line, _ in rows(data)] == numbers


@pytest.mark.parametrize(
    "header", ['"Фамилия, имя";Телефон', "Фамилия, имя, отчество;Телефон", "Имя\tТелефон, моб"]
)
def test_commas_within_names_are_no_delimiters(header: str) -> None:
    assert len(sheet(header.replace(", моб", "").encode()).header) == 2


PARSER = RowParser(None, None, zone_optional=False)


def test_row_is_parsed() -> None:
    assert PARSER.parse_row("8 916 123 45 67", " 495 ", " vip ", "europe/moscow") == ClientRow(
        "79161234567", "495", "vip", "Europe/Moscow"
    )


def test_all_errors_of_a_row_are_reported_together() -> None:
    faults = PARSER.parse_row("1", "12", "x" * 65, "Moon/Base")
    assert isinstance(faults, list)
    assert [fault.column for fault in faults] == ["phone", "operator_code", "tag", "timezone"]
    assert faults[0].detail == f"phone {PHONE_DETAIL}"
    assert PARSER.parse_row("79161234567", "", None, "?") == [
        ("timezone", ZONE_DETAIL, "timezone_unknown", "")
    ]
    assert PARSER.parse_row("7,9E+10", "", None, "") == [
        ("phone", f"phone {SHORTENED_DETAIL}", "phone_shortened", ""),
        ("timezone", ZONE_MISSING, "timezone_missing", ""),
    ]


def test_cell_with_a_line_break_hints_at_an_open_quote() -> None:
    faults = PARSER.parse_row("79161234567", "", "a\nb", "UTC")
    assert isinstance(faults, list)
    assert "quote that is not closed" in faults[0].detail
    for swallowed in ("Ivan\n79161234567,Petr", "Ivan\r\n8 (916) 123-45-67;Petr"):
        attributes, errors = PARSER.parse_attributes({"name": swallowed})
        assert (attributes, [error.code for error in errors]) == ({}, ["line_break"])
    address = {"address": "Lenina 1\nOmsk, 644099"}
    assert PARSER.parse_attributes(address) == (address, [])


def test_row_may_have_twenty_attributes_of_many_columns() -> None:
    cells = {f"a{n}": "x" if n < 20 else "" for n in range(40)}
    attributes, errors = PARSER.parse_attributes(cells)
    assert (len(attributes), errors) == (20, [])
    _, errors = PARSER.parse_attributes(cells | {"a30": "x"})
    assert [error.code for error in errors] == ["too_many_attributes"]


@pytest.mark.parametrize(
    ("parser", "tag", "zone", "row"),
    [
        # The row's (tag, zone); None leaves the client's value unchanged.
        (RowParser("new", "UTC", False), "", "", ("new", "UTC")),
        (RowParser("new", "UTC", False), None, "", ("new", "UTC")),
        (RowParser("new", "UTC", False), "own", "Asia/Omsk", ("own", "Asia/Omsk")),
        (RowParser(None, None, True), "", "", ("", None)),
        (RowParser(None, None, True), None, "", (None, None)),
    ],
)
def test_missing_values_are_filled_in(
    parser: RowParser, tag: str | None, zone: str, row: tuple[str | None, str | None]
) -> None:
    read = parser.parse_row("79161234567", "", tag, zone)
    assert isinstance(read, ClientRow)
    assert (read.tag, read.timezone) == row
