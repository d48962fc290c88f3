"""What a row of an imported file must be to become a client, and what is said of it if it is not.

A row is read as people write it: a phone with a plus, brackets and spaces, a zone in any case, an
empty cell for what is not known. Everything that is wrong with a row is said at once.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared.domain.attributes import MAX_VALUE_LENGTH, is_attribute_name
from shared.domain.phones import InvalidPhone, parse_phone
from shared.domain.spreadsheets import unescape_formula
from shared.domain.time_zones import TIME_ZONES

# What a header may call a column, in lower case.
COLUMN_NAMES = {
    name: column
    for column, names in {
        "phone": "phone|phone number|mobile|mobile phone|msisdn|tel|телефон|номер|номер телефона|"
        "мобильный|мобильный телефон|тел|тел.",
        "operator_code": "operator code|operatorcode|code|def|def code|код|код оператора|"
        "код мобильного оператора|оператор",
        "tag": "tag|label|тег|тэг|метка",
        "timezone": "timezone|time zone|tz|zone|часовой пояс|зона|временная зона|таймзона",
    }.items()
    for name in names.split("|")
}
COLUMNS = ("phone", "operator_code", "tag", "timezone")
# Columns of our own exports, which mean nothing when they come back.
EXPORT_ONLY_COLUMNS = frozenset({"id", "created_at", "updated_at", "line", "reason"})
MAX_TAG_LENGTH = 64

OPERATOR_CODE = re.compile(r"[0-9]{3}")
CODE_DETAIL = "operator_code must be exactly 3 digits, for example 916, or empty"
TAG_DETAIL = f"tag must be at most {MAX_TAG_LENGTH} characters"
ZONE_DETAIL = "timezone must be an IANA time zone, for example Europe/Moscow"
ZONE_MISSING = "timezone is missing: fill it in, or send the file with ?timezone=Europe/Moscow"
BREAK_DETAIL = "{} must not hold a line break; look for a quote that is not closed"

_ZONES = {zone.lower(): zone for zone in TIME_ZONES}


class InvalidCell(ValueError):
    """A cell that cannot be used: what to do, and a code for whoever says it in other words."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.code = code


class CellError(NamedTuple):
    """What is wrong with a row: in which column, what to do, and its code."""

    column: str
    detail: str
    code: str


class ClientRow(NamedTuple):
    """A row as it is to be merged; None is what it leaves open."""

    phone: str
    operator_code: str | None
    tag: str | None
    timezone: str | None


class RowParser:
    """Reads cells, with what fills the gaps: `tag` and `timezone` stand for an empty or missing
    cell. `zone_optional` says that a new client without a zone will be given one later.
    """

    def __init__(self, tag: str | None, timezone: str | None, zone_optional: bool):
        self._tag = tag
        self._timezone = timezone
        self._zone_optional = zone_optional

    def read(
        self, phone: str, code: str, tag: str | None, zone: str
    ) -> ClientRow | list[CellError]:
        """The row, or all that is wrong with it. A tag of None says there is no such column."""
        faults: list[CellError] = []

        def attempt(
            column: str, reader: Callable[[str | None], str | None], cell: str | None
        ) -> str | None:
            try:
                if cell and ("\n" in cell or "\r" in cell):
                    raise InvalidCell("line_break", BREAK_DETAIL.format(column))
                return reader(cell)
            except (InvalidCell, InvalidPhone) as error:
                faults.append(CellError(column, str(error), error.code))
                return None

        row = ClientRow(
            attempt("phone", lambda cell: parse_phone(cell or ""), phone) or "",
            attempt("operator_code", parse_operator_code, code),
            attempt("tag", self.read_tag, tag),
            attempt("timezone", self.read_zone, zone),
        )
        return faults or row

    def read_tag(self, cell: str | None) -> str | None:
        """The tag; None to leave it as it is (or empty, for a new client)."""
        tag = unescape_formula(cell.strip()) if cell is not None else ""
        if len(tag) > MAX_TAG_LENGTH:
            raise InvalidCell("tag_length", TAG_DETAIL)
        return tag or (self._tag if self._tag is not None or cell is None else "")

    def read_zone(self, cell: str | None) -> str | None:
        """The zone's IANA name; None to leave it as it is."""
        name = cell.strip() if cell else ""
        if name:
            zone = name if name in TIME_ZONES else _ZONES.get(name.lower())
            if zone is None:
                raise InvalidCell("timezone_unknown", ZONE_DETAIL)
            return zone
        if self._timezone is None and not self._zone_optional:
            raise InvalidCell("timezone_missing", ZONE_MISSING)
        return self._timezone


def parse_attribute_name(header: str) -> str | None:
    """The attribute that a column of another name stands for; None if it can be none."""
    name = "_".join(header.replace("-", " ").split())
    return name if is_attribute_name(name) and name.lower() not in EXPORT_ONLY_COLUMNS else None


def parse_attributes(cells: Mapping[str, str]) -> tuple[dict[str, str], list[CellError]]:
    """The attributes in these cells, by name, and what is wrong with them; an empty one is none."""
    attributes, faults = {}, []
    for name, cell in cells.items():
        value = unescape_formula(cell.strip())
        if len(value) > MAX_VALUE_LENGTH:
            detail = f"{name} must be at most {MAX_VALUE_LENGTH} characters"
            faults.append(CellError(name, detail, "value_length"))
        elif "\n" in value or "\r" in value:
            faults.append(CellError(name, BREAK_DETAIL.format(name), "line_break"))
        elif value:
            attributes[name] = value
    return attributes, faults


def parse_operator_code(cell: str | None) -> str | None:
    code = cell.strip().lstrip("'") if cell else ""
    if code and OPERATOR_CODE.fullmatch(code) is None:
        raise InvalidCell("operator_code_format", CODE_DETAIL)
    return code or None
