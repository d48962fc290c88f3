"""Reads CSV files as spreadsheets and people produce them, as a stream and in little memory.

The encoding is UTF-8, with or without a byte order mark, or Windows-1251; the delimiter a comma,
semicolon or tab; the header names the columns in any order, in English or Russian. A file that is
unusable as a whole raises BadFile, whose text says how to correct it; an unreadable row is yielded
with the error.
"""

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

READ_BYTES = 128 * 1024
# Longer lines or rows are not sensible data; the limits bound memory.
MAX_LINE_LENGTH = 64 * 1024
MAX_ROW_LINES = 200
DELIMITERS = ",;\t"
# How many unknown columns are reported, and how much of each name.
MAX_REPORTED_COLUMNS = 20
MAX_REPORTED_NAME_LENGTH = 64

SAVE_AS_CSV = "save it as CSV (in Excel: CSV UTF-8) and send that"
OTHER_FORMATS = {
    b"PK\x03\x04": f"The file is an Excel workbook or an archive: {SAVE_AS_CSV}.",
    b"\xd0\xcf\x11\xe0": f"The file is an Excel workbook: {SAVE_AS_CSV}.",
    b"\x1f\x8b": "The file is compressed: unpack it and send what is inside.",
    b"\xff\xfe": f"The file is UTF-16: {SAVE_AS_CSV}.",
    b"\xfe\xff": f"The file is UTF-16: {SAVE_AS_CSV}.",
}


class BadFile(Exception):
    """The file is unusable as a whole; the text says why, and how to correct it.

    `code` and `values` serve translations of the text.
    """

    def __init__(self, detail: str, code: str, **values: object):
        super().__init__(detail)
        self.code, self.values = code, values


class UnreadableFile(BadFile):
    """The file is not text, or is in an unsupported encoding."""


class FileTooLarge(BadFile):
    """The file exceeds the size limit."""


class BadHeader(BadFile):
    """The file does not begin with a valid header."""


class CsvRow(NamedTuple):
    """One row: the line in which it begins, and its cells, or the error in its quotes."""

    line: int
    cells: list[str]
    fault: str | None = None


class CsvReader:
    """Reads the header of a CSV file; iterating yields its rows, without blank ones.

    `read(n)` returns up to n bytes, none at the end. `names` maps names in a header, in lower case,
    to columns. `parse_extra` returns a name for another cell of the header, which is then a column
    in `extras`, up to `max_extras`; cells for which it returns None are in `ignored`.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        names: Mapping[str, str],
        required: Sequence[str] = (),
        limit: int | None = None,
        parse_extra: Callable[[str], str | None] = lambda cell: None,
        max_extras: int = 0,
    ):
        self._source = _Source(read, limit)
        self._text = io.TextIOWrapper(
            io.BufferedReader(self._source, READ_BYTES), encoding="utf-8", newline=""
        )
        self._line = 0
        self._row_begins = 1
        self._names = names
        self._parse_extra, self._max_extras = parse_extra, max_extras
        self.extras: dict[str, int] = {}
        header, delimiter = self._read_header()
        # Strict: otherwise a stray quote would silently consume the following rows.
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)
        self.width = len(header)
        self.columns, self.ignored = self._map_columns(header, required)

    @property
    def size(self) -> int:
        """The number of bytes read so far."""
        return self._source.size

    def __iter__(self) -> Iterator[CsvRow]:
        new = tuple.__new__  # Takes half the time of CsvRow(…), for millions of rows.
        while True:
            try:
                for cells in self._reader:
                    line, self._row_begins = self._row_begins, self._line + 1
                    if cells:
                        yield new(CsvRow, (line, cells, None))
                return
            except csv.Error:
                line, self._row_begins = self._row_begins, self._line + 1
                fault = 'quotes must enclose a whole cell; write a quote inside of one as ""'
                yield CsvRow(line, [], fault)

    def _read_header(self) -> tuple[list[str], str]:
        lines = self._lines()
        first = next((line for line in lines if line.strip()), "").strip("\r\n")
        delimiter = max(DELIMITERS, key=first.count)
        if first[:4].lower() == "sep=" and first[4:] in tuple(DELIMITERS):  # Excel writes this
            delimiter = first[4:]
            first = next((line for line in lines if line.strip()), "").strip("\r\n")
        self._row_begins = self._line + 1
        if not first.strip():
            raise BadHeader(
                "The file is empty: its first line must name the columns.", "file_empty"
            )
        try:
            cells = next(csv.reader([first], delimiter=delimiter, strict=True))
        except csv.Error:
            raise BadHeader(
                "The first line must name the columns; its quotes are wrong.", "header_quotes"
            ) from None
        return cells, delimiter

    def _map_columns(
        self, header: list[str], required: Sequence[str]
    ) -> tuple[dict[str, int], list[str]]:
        columns: dict[str, int] = {}
        ignored: list[str] = []
        for index, cell in enumerate(header):
            name = " ".join(cell.casefold().replace("_", " ").replace("-", " ").split())
            column = self._names.get(name)
            found = columns
            if column is None:
                column, found = self._parse_extra(cell), self.extras
            if column is None or (found is self.extras and len(found) == self._max_extras):
                if name:
                    ignored.append(cell.strip()[:MAX_REPORTED_NAME_LENGTH])
            elif column in found:
                raise BadHeader(
                    f"The header names the column {column} twice: leave one of them.",
                    "column_twice",
                    column=column,
                )
            else:
                found[column] = index
        for column in required:
            if column not in columns:
                raise BadHeader(
                    f"The first line must name the columns, and {column} must be among them, for "
                    "example: phone,operator_code,tag,timezone",
                    "column_missing",
                    column=column,
                )
        return columns, ignored[:MAX_REPORTED_COLUMNS]

    def _lines(self) -> Iterator[str]:
        readline = self._text.readline
        try:
            while line := readline(MAX_LINE_LENGTH):
                self._line = at = self._line + 1
                if len(line) == MAX_LINE_LENGTH and line[-1] not in "\r\n":
                    raise UnreadableFile(
                        f"Line {at} is longer than {MAX_LINE_LENGTH // 1024} KiB: this is not CSV.",
                        "line_length",
                        line=at,
                    )
                if at - self._row_begins > MAX_ROW_LINES:
                    raise UnreadableFile(
                        f"In line {self._row_begins} a quote is opened and not closed: "
                        'close it, or write a quote inside of a cell as "".',
                        "quote_open",
                        line=self._row_begins,
                    )
                yield line
        except UnicodeDecodeError:
            raise UnreadableFile(
                f"Somewhere after line {self._line} the file is neither UTF-8 nor Windows-1251: "
                "save it as CSV UTF-8 and send that.",
                "encoding",
                line=self._line,
            ) from None


class _Source(io.RawIOBase):
    """The file's bytes as UTF-8, converted if they are Windows-1251.

    ASCII is common to both encodings, so the first bytes beyond it decide.
    """

    def __init__(self, read: Callable[[int], bytes], limit: int | None):
        self.size = 0
        self._read = read
        self._limit = limit
        self._ready = b""
        self._encoding: str | None = None
        self._undecided = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        ended = False
        while not self._ready and not ended:
            chunk = self._read_chunk()
            ended = not chunk
            self._ready = self._recode(chunk)
        taken = self._ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)

    def _read_chunk(self) -> bytes:
        first = not self.size
        chunk = self._read(READ_BYTES)
        # Read enough to recognise the format; a mark alone would look like the end.
        while first and 0 < len(chunk) < 4 and (more := self._read(READ_BYTES)):
            chunk += more
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise FileTooLarge(
                f"The file is larger than {self._limit} bytes: split it and send the parts.",
                "file_too_large",
                megabytes=self._limit // 2**20,
            )
        if first:
            for magic, detail in OTHER_FORMATS.items():
                if chunk.startswith(magic):
                    raise UnreadableFile(detail, "not_csv")
            if chunk.startswith(codecs.BOM_UTF8):
                self._encoding = "utf-8"
                chunk = chunk[len(codecs.BOM_UTF8) :]
        if b"\x00" in chunk:
            raise UnreadableFile(f"The file is not text, or is UTF-16: {SAVE_AS_CSV}.", "not_csv")
        return chunk

    def _recode(self, chunk: bytes) -> bytes:
        if self._encoding is None:
            chunk, ended = self._undecided + chunk, not chunk
            self._undecided = b""
            if chunk.isascii():
                return chunk
            self._detect_encoding(chunk, ended)
            if self._encoding is None:
                whole = len(chunk) - len(self._undecided)
                return chunk[:whole]
        return chunk if self._encoding == "utf-8" else chunk.decode("cp1251").encode()

    def _detect_encoding(self, chunk: bytes, ended: bool) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(chunk, ended)
        except UnicodeDecodeError:
            # Hardly any letter of Windows-1251 is valid UTF-8; of damaged UTF-8 most are.
            text = chunk.decode("utf-8", "replace")
            wrong = text.count("\ufffd")
            right = sum(not character.isascii() for character in text) - wrong
            self._encoding = "utf-8" if right > wrong else "cp1251"
            return
        if text.isascii():  # Only an incomplete last character is beyond ASCII.
            self._undecided = decoder.getstate()[0]
        else:
            self._encoding = "utf-8"
