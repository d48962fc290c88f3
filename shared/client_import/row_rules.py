"""Parses a row of an imported file into a client, or lists the errors in it.

Cells are accepted as people write them: a phone with a plus, brackets and spaces, a time zone by
its city, an empty cell for an unknown value. All errors of a row are reported together.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared.domain.attributes import MAX_ATTRIBUTES, MAX_VALUE_LENGTH
from shared.domain.phones import InvalidPhone, parse_phone
from shared.domain.spreadsheets import unescape_formula
from shared.domain.time_zones import TIME_ZONES
from shared.domain.zone_names import find_closest_zones, parse_zone, propose_zone

MAX_TAG_LENGTH = 64

OPERATOR_CODE = re.compile(r"[0-9]{3}")
CODE_DETAIL = "operator_code must be exactly 3 digits, for example 916, or empty"
TAG_DETAIL = f"tag must be at most {MAX_TAG_LENGTH} characters"
ZONE_DETAIL = "timezone must be an IANA time zone, for example Europe/Moscow"
ZONE_CLOSEST = "timezone is unknown: write a time zone such as {}"
ZONE_OFFSET = (
    "timezone is an offset, which several zones have: confirm with the mapping that it means {0}, "
    "or write the zone"
)
ZONE_MISSING = "timezone is missing: fill it in, or send the file with ?timezone=Europe/Moscow"
BREAK_DETAIL = "{} must not hold a line break; look for a quote that is not closed"
COUNT_DETAIL = f"the row has {{}} attributes; a client has at most {MAX_ATTRIBUTES}"
# After a line break, so many digits in a row are the phone of the next row, whose line a quote
# that is not closed has taken into this cell.
SWALLOWED_ROW = re.compile(r"[\r\n].*?(?:[0-9][ ().-]*){10}", re.DOTALL)
# Different unknown zones of a file for which the closest ones are searched, which takes CPU.
MAX_SEARCHED_ZONES = 100


class InvalidCell(ValueError):
    """An invalid cell; the text says what is expected, `code` and `found` serve translations."""

    def __init__(self, code: str, detail: str, found: str = ""):
        super().__init__(detail)
        self.code = code
        self.found = found


class CellError(NamedTuple):
    """An error in a row: its column (empty for the whole row), what is expected, and a code.

    `found` is what the detail names: zones like the unknown one, the phones in one cell.
    """

    column: str
    detail: str
    code: str
    found: str = ""


class ClientRow(NamedTuple):
    """A valid row; a value of None leaves that of a known client unchanged."""

    phone: str
    operator_code: str | None
    tag: str | None
    timezone: str | None


class RowParser:
    """Parses the cells of rows.

    `tag` and `timezone` are the values for empty or missing cells. With `zone_optional` a time zone
    is not required, as new clients get a default one when they are merged. `zones` has the zones
    that a person has confirmed for cells. With `exact` the cells are as an export wrote them.
    """

    def __init__(
        self,
        tag: str | None,
        timezone: str | None,
        zone_optional: bool,
        zones: Mapping[str, str] | None = None,
        exact: bool = False,
    ):
        self._tag = tag
        self._timezone = timezone
        self._zone_optional = zone_optional
        self._zones = {_fold(cell): zone for cell, zone in (zones or {}).items()}
        self._exact = exact
        self._closest: dict[str, str] = {}
        # Cells of offsets that are not confirmed: the zone proposed, and how many rows have it.
        self.proposed_zones: dict[str, tuple[str, int]] = {}

    def parse_row(
        self, phone: str, code: str, tag: str | None, zone: str
    ) -> ClientRow | list[CellError]:
        """Return the row, or all its errors. A tag of None means that there is no such column."""
        errors: list[CellError] = []

        def parse(
            column: str, parser: Callable[[str | None], str | None], cell: str | None
        ) -> str | None:
            try:
                return parser(cell)
            except (InvalidCell, InvalidPhone) as error:
                errors.append(CellError(column, str(error), error.code, error.found))
                return None

        row = ClientRow(
            parse("phone", _parse_phone, phone) or "",
            parse("operator_code", parse_operator_code, code),
            parse("tag", self.parse_tag, tag),
            parse("timezone", self.parse_zone, zone),
        )
        return errors or row

    def parse_tag(self, cell: str | None) -> str | None:
        """Return the tag; None to leave it unchanged (empty for a new client)."""
        tag = "" if cell is None else unescape_formula(cell if self._exact else cell.strip())
        if not self._exact:
            _check_breaks("tag", tag)
        if len(tag) > MAX_TAG_LENGTH:
            raise InvalidCell("tag_length", TAG_DETAIL)
        return tag or (self._tag if self._tag is not None or cell is None else "")

    def parse_zone(self, cell: str | None) -> str | None:
        """Return the zone's IANA name; None to leave it unchanged."""
        name = cell.strip() if cell else ""
        if name:
            _check_breaks("timezone", name)
            if self._exact and name in TIME_ZONES:
                return name
            zone = self._zones.get(_fold(name)) or parse_zone(unescape_formula(name))
            if zone is None:
                raise self._explain_zone(unescape_formula(name))
            return zone
        if self._timezone is None and not self._zone_optional:
            raise InvalidCell("timezone_missing", ZONE_MISSING)
        return self._timezone

    def parse_attributes(self, cells: Mapping[str, str]) -> tuple[dict[str, str], list[CellError]]:
        """Return the attributes in cells (by name) that are not empty, and the errors in them."""
        attributes, errors = {}, []
        exact = self._exact
        for name, cell in cells.items():
            value = unescape_formula(cell if exact else cell.strip())
            if len(value) > MAX_VALUE_LENGTH:
                detail = f"{name} must be at most {MAX_VALUE_LENGTH} characters"
                errors.append(CellError(name, detail, "value_length"))
            elif not exact and "\n" in value and SWALLOWED_ROW.search(value):
                errors.append(CellError(name, BREAK_DETAIL.format(name), "line_break"))
            elif value:
                attributes[name] = value
        if len(attributes) > MAX_ATTRIBUTES:
            count = len(attributes)
            errors.append(
                CellError("", COUNT_DETAIL.format(count), "too_many_attributes", str(count))
            )
        return attributes, errors

    def _explain_zone(self, name: str) -> InvalidCell:
        """Return the error of a time zone that is not known."""
        proposal = propose_zone(name)
        if proposal is not None:
            key = _fold(name)
            rows = self.proposed_zones.get(key, ("", 0))[1]
            self.proposed_zones[key] = (proposal, rows + 1)
            return InvalidCell("timezone_offset", ZONE_OFFSET.format(proposal), proposal)
        if name not in self._closest and len(self._closest) < MAX_SEARCHED_ZONES:
            self._closest[name] = ", ".join(find_closest_zones(name))
        closest = self._closest.get(name)
        detail = ZONE_CLOSEST.format(closest) if closest else ZONE_DETAIL
        return InvalidCell("timezone_unknown", detail, closest or "")


def parse_operator_code(cell: str | None) -> str | None:
    code = cell.strip().lstrip("'") if cell else ""
    if code and OPERATOR_CODE.fullmatch(code) is None:
        raise InvalidCell("operator_code_format", CODE_DETAIL)
    return code or None


def _parse_phone(cell: str | None) -> str:
    try:
        return parse_phone(cell or "")
    except InvalidPhone as error:
        if error.code == "phone_format":
            _check_breaks("phone", (cell or "").strip())
        raise


def _check_breaks(column: str, text: str) -> None:
    if "\n" in text or "\r" in text:
        raise InvalidCell("line_break", BREAK_DETAIL.format(column))


def _fold(cell: str) -> str:
    """Return a cell for comparison with those that a person has confirmed."""
    return "".join(cell.split()).casefold().lstrip("'")
