"""Parses the rows of a CSV file or a workbook of clients for an import."""

from collections.abc import Iterator, Sequence

from api.clients.row_receiver import NULL, RowReceiver, copy_attributes
from shared.client_import.columns import COLUMNS
from shared.client_import.csv_reader import CsvReader
from shared.client_import.row_rules import CellError, ClientRow, RowParser
from shared.client_import.sampled_rows import FileRow
from shared.client_import.xlsx_reader import XlsxReader
from shared.domain.phones import PHONE

TOO_MANY_CELLS = (
    'the row has more cells than the header; put a cell that holds the delimiter in quotes: "a,b"'
)


class CsvRowReceiver(RowReceiver):
    """Receives the rows of a CSV file or a workbook."""

    def __init__(self, import_id: int, reader: CsvReader | XlsxReader, parser: RowParser):
        super().__init__(import_id, parser)
        self._reader = reader

    def _parse_rows(self) -> Iterator[None]:
        """Parse all rows, yielding after every 500; the hot loop of an import.

        Rows whose cells were all parsed before take the short way, without the parser.
        """
        # A missing column is read from an empty cell that is appended to every row.
        absent = width = self._reader.width
        at_phone, at_code, at_tag, at_zone = (
            self._reader.columns.get(name, absent) for name in COLUMNS
        )
        is_phone = PHONE.fullmatch
        accept = self._accepted.append
        codes, tags, zones = self._codes, self._tags, self._zones
        extras = self._reader.extras
        attributes = NULL
        for rows, row in enumerate(self._reader, 1):
            line, cells, _ = row
            if len(cells) == width:
                cells.append("")
                phone = cells[at_phone]
                code = codes.get(cells[at_code])
                tag = tags.get(cells[at_tag])
                zone = zones.get(cells[at_zone])
                if extras:
                    attributes = self._parse_attributes(cells)
                if code and zone and tag is not None and attributes and is_phone(phone):
                    accept(f"{line}\t{phone}\t{code}\t{tag}\t{zone}\t{attributes}\n")
                else:
                    self._parse_row(row)
            else:
                self._parse_row(row)
            if not rows % 500:
                yield

    def _parse_attributes(self, cells: Sequence[str]) -> str:
        """Return the attributes as COPY text; an empty text if one is invalid."""
        values = {name: cells[index] for name, index in self._reader.extras.items()}
        attributes, faults = self._parser.parse_attributes(values)
        return "" if faults else copy_attributes(attributes)

    def _parse_row(self, row: FileRow) -> None:
        """Accept or reject a row that has cells not parsed before, or is malformed."""
        width, places = self._reader.width, self._reader.columns
        line, cells, fault = row
        cells = cells + [""] * (width - len(cells))
        given = [cells[places[name]] if name in places else "" for name in COLUMNS]
        extra = {name: cells[index] for name, index in self._reader.extras.items()}
        if fault is not None:
            self._reject(line, given, extra, [CellError("", fault, "quotes")])
        elif any(cell.strip() for cell in cells[width:]):
            self._reject(line, given, extra, [CellError("", TOO_MANY_CELLS, "too_many_cells")])
        elif any(cell.strip() for cell in cells):
            phone, code, tag, zone = given
            parsed = self._parser.parse_row(phone, code, tag if "tag" in places else None, zone)
            attributes, faults = self._parser.parse_attributes(extra)
            if isinstance(parsed, ClientRow) and not faults:
                self._accept(line, given, parsed, attributes)
            else:
                faults = (parsed if isinstance(parsed, list) else []) + faults
                self._reject(line, given, extra, faults)
