"""Reads CSV files as spreadsheets and people produce them, as a stream and in little memory.

The delimiter is a comma, semicolon or tab; the first row names the columns. A file that is unusable
as a whole raises BadFile, whose text says how to correct it; an unreadable row is yielded with the
error. Rows are counted as a spreadsheet that opens the file counts them.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from shared.client_import.bad_file import BadHeader, UnreadableFile
from shared.client_import.columns import ColumnPlan
from shared.client_import.sampled_rows import FileRow, SampledRows
from shared.client_import.text_source import READ_BYTES, TextSource

# Longer lines or rows are not sensible data; the limits bound memory.
MAX_LINE_LENGTH = 64 * 1024
MAX_ROW_LINES = 200
# The likeliest first: commas may also be in the names of columns.
DELIMITERS = "\t;,"


class CsvReader(SampledRows):
    """Reads the header of a CSV file; iterating yields its rows, without blank ones.

    `read(n)` returns up to n bytes, none at the end. `plan` returns what the columns of a header
    are, or raises BadHeader.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        plan: Callable[[Sequence[str]], ColumnPlan],
        limit: int | None = None,
    ):
        super().__init__()
        self._source = TextSource(read, limit)
        self._text = io.TextIOWrapper(
            io.BufferedReader(self._source, READ_BYTES), encoding="utf-8", newline=""
        )
        self._line = self._row = 0
        self._row_begins = 1
        self.header = self._read_header()
        self.width = len(self.header)
        self.columns, self.extras, self.ignored, self.exact = plan(self.header)

    @property
    def size(self) -> int:
        """The number of bytes read so far."""
        return self._source.size

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""

    def _read_rows(self) -> Iterator[FileRow]:
        new = tuple.__new__  # Takes half the time of FileRow(…), for millions of rows.
        while True:
            try:
                for cells in self._reader:
                    self._row += 1
                    self._row_begins = self._line + 1
                    if cells:
                        yield new(FileRow, (self._row, cells, None))
                return
            except csv.Error:
                self._row += 1
                self._row_begins = self._line + 1
                fault = 'quotes must enclose a whole cell; write a quote inside of one as ""'
                yield FileRow(self._row, [], fault)

    def _read_header(self) -> list[str]:
        lines = self._lines()
        first = next((line for line in lines if line.strip()), "")
        self._row = self._line
        plain = first.strip("\r\n")
        delimiter = _detect_delimiter(plain)
        if plain[:4].lower() == "sep=" and plain[4:] in tuple(DELIMITERS):  # Excel writes this
            delimiter = plain[4:]
            first = next((line for line in lines if line.strip()), "")
            self._row = self._line - 1  # and does not show it as a row
        if not first.strip():
            raise BadHeader(
                "The file is empty: its first line must name the columns.", "file_empty"
            )
        # Strict: otherwise a stray quote would silently consume the following rows.
        self._reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        try:
            header = next(self._reader)
        except csv.Error:
            raise BadHeader(
                "The first line must name the columns; its quotes are wrong.", "header_quotes"
            ) from None
        self._row_begins = self._line + 1
        return header

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
                        f"In row {self._row + 1} a quote is opened and not closed: "
                        'close it, or write a quote inside of a cell as "".',
                        "quote_open",
                        line=self._row + 1,
                    )
                yield line
        except UnicodeDecodeError:
            raise UnreadableFile(
                f"Somewhere after line {self._line} the file is neither UTF-8 nor Windows-1251: "
                "save it as CSV UTF-8 and send that.",
                "encoding",
                line=self._line,
            ) from None


def _detect_delimiter(header: str) -> str:
    """Return the delimiter of a header; what is in quotes, or before a space, may be text."""
    bare = re.sub(r'"[^"]*"', "", header)
    counts = {each: bare.count(each) - 0.6 * bare.count(f"{each} ") for each in DELIMITERS}
    likeliest = max(counts, key=lambda each: counts[each])
    return likeliest if counts[likeliest] else ","
