"""Reads the clients in a workbook (.xlsx) as a stream of rows, as from a CSV file.

The first visible sheet with a header is read. Formulas count by the values that were stored with
them. A number keeps its digits, and a date is written as 2026-11-28.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import IO, Any

from shared.client_import.bad_file import BadFile, BadHeader
from shared.client_import.columns import ColumnPlan
from shared.client_import.sampled_rows import FileRow, SampledRows
from shared.client_import.text_source import file_too_large
from shared.client_import.workbook_limits import check_workbook, damaged

READ_BYTES = 256 * 1024
# The archive is kept in a temporary file while it is read.
MAX_WORKBOOK_BYTES = 32 * 1024 * 1024
MAX_ROWS = 1_048_576
MAX_COLUMNS = 512
# The header is searched in the first rows of each sheet.
MAX_ROWS_BEFORE_HEADER = 20

# Styles and extensions that the library does not know are of no interest here.
warnings.filterwarnings("ignore", module="openpyxl")


class XlsxReader(SampledRows):
    """Reads the header of a sheet; iterating yields its rows, without blank ones.

    The arguments and the attributes are those of CsvReader. `other_sheets` are the names of the
    sheets with content that are not read.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        plan: Callable[[Sequence[str]], ColumnPlan],
        limit: int | None = None,
    ):
        super().__init__()
        self._file, self.size = _store(read, min(limit or MAX_WORKBOOK_BYTES, MAX_WORKBOOK_BYTES))
        try:
            check_workbook(self._file, self.size)
            self._open()
            self.width = len(self.header)
            self.columns, self.extras, self.ignored, self.exact = plan(self.header)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()

    def _read_rows(self) -> Iterator[FileRow]:
        first = self._header_row + 1
        rows = self._sheet.iter_rows(
            min_row=first, max_row=MAX_ROWS, max_col=self.width + 1, values_only=True
        )
        numbers = iter(range(first, MAX_ROWS + 1))
        try:
            for values, number in zip(rows, numbers, strict=False):
                if any(value is not None for value in values):
                    cells = [
                        value if type(value) is str else format_cell(value) for value in values
                    ]
                    if not cells[-1]:
                        cells.pop()
                    yield FileRow(number, cells)
        except Exception:  # likewise; the caller's own errors do not pass through a generator
            raise damaged() from None

    def _open(self) -> None:
        # It takes a twentieth of the time that the API takes to start, and most files are CSV.
        from openpyxl import load_workbook  # type: ignore[import-untyped]

        self._file.seek(0)
        try:
            self._workbook = load_workbook(self._file, read_only=True, data_only=True)
            self._sheet, self._header_row, self.header, self.other_sheets = self._find_header()
        except BadFile:
            raise
        except Exception:  # whatever a damaged archive makes of the library
            raise damaged() from None

    def _find_header(self) -> tuple[Any, int, list[str], list[str]]:
        """Return the sheet that is read, the number of its header and its cells; other sheets."""
        found: tuple[Any, int, list[str]] | None = None
        others = []
        for sheet in self._workbook.worksheets:
            if sheet.sheet_state != "visible":
                continue
            sheet.reset_dimensions()  # they may be wrong
            rows = sheet.iter_rows(
                max_row=MAX_ROWS_BEFORE_HEADER, max_col=MAX_COLUMNS, values_only=True
            )
            for number, values in enumerate(rows, 1):
                header = [format_cell(value).strip() for value in values]
                while header and not header[-1]:
                    header.pop()
                if header and found is None:
                    found = sheet, number, header
                elif header:
                    others.append(str(sheet.title))
                if header or number == MAX_ROWS_BEFORE_HEADER:
                    break
        if found is None:
            raise BadHeader(
                "The file is empty: its first line must name the columns.", "file_empty"
            )
        return *found, others


def format_cell(value: object) -> str:
    """Return the text of a cell's value as a person would write it."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else format(value, ".15g")
        case datetime():
            whole = not (value.hour or value.minute or value.second or value.microsecond)
            return value.date().isoformat() if whole else value.isoformat(timespec="seconds")
        case date() | time():
            return value.isoformat()
        case timedelta():
            minutes, seconds = divmod(round(value.total_seconds()), 60)
            return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
        case _:
            return str(value)


def _store(read: Callable[[int], bytes], limit: int) -> tuple[IO[bytes], int]:
    """Store the archive in a temporary file; return it and its size. Raise FileTooLarge."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the reader is dropped)
    size = 0
    while chunk := read(READ_BYTES):
        size += len(chunk)
        if size > limit:
            file.close()
            raise file_too_large(limit)
        file.write(chunk)
    file.seek(0)
    return file, size
