"""Recognises the columns of a file of clients by its header.

A few names are certain: Телефон is the phone. Every other column is an attribute, under its own
name or one made from it, unless the person says otherwise: a column `code` may hold promo codes,
and `zone` sales regions. An export of this service is recognised by its whole header; its cells
are read exactly as they were written.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.client_import.bad_file import BadHeader
from shared.domain.attributes import CLIENT_FIELDS, NAME_LETTERS, is_attribute_name

COLUMNS = ("phone", "operator_code", "tag", "timezone")
# Columns of the export of clients, before their attributes; and of an export of rejected rows.
EXPORT_COLUMNS = ("id", *COLUMNS, "created_at", "updated_at")
REJECTED_FIRST, REJECTED_LAST = ("line", *COLUMNS), "reason"

# Columns by the names that a header may use, as `normalize_header` returns them.
COLUMN_NAMES = {
    name: column
    for column, names in {
        "phone": "phone|phone number|mobile|mobile phone|mobile number|cell phone|msisdn|tel|"
        "telephone|телефон|номер телефона|мобильный|мобильный телефон|номер мобильного|"
        "номер мобильного телефона|моб телефон|моб тел|моб|тел|контактный телефон|сотовый|"
        "сотовый телефон",
        "operator_code": "operator code|operatorcode|код оператора|код мобильного оператора",
        "tag": "tag|тег|тэг|метка",
        "timezone": "timezone|time zone|tz|часовой пояс|временная зона|таймзона",
    }.items()
    for name in names.split("|")
}
# Attributes of one file or export; a client has at most MAX_ATTRIBUTES of them. A file with a
# column for each of thousands of names would be far larger than its data.
MAX_ATTRIBUTE_COLUMNS = 200
# How many ignored columns are reported, and how much of each name.
MAX_REPORTED_COLUMNS = 20
MAX_REPORTED_NAME_LENGTH = 64
MAX_NAME_LENGTH = 32


class ColumnPlan(NamedTuple):
    """What the columns of a file are: fields and attributes by their positions, and the others.

    `exact` says that cells are as an export wrote them, so nothing of them is trimmed or corrected.
    """

    columns: dict[str, int]
    extras: dict[str, int]
    ignored: list[str]
    exact: bool = False


class ColumnMapping(NamedTuple):
    """What a person says about the columns of a file, and about the time zones in it.

    `columns` has a field, the name of an attribute, or None (to ignore) for a column, which is
    named by its header or by its position, as in #3. `timezones` has a zone for a cell.
    """

    columns: Mapping[str, str | None] = {}
    timezones: Mapping[str, str] = {}


NO_MAPPING = ColumnMapping()


def normalize_header(cell: str) -> str:
    """Return a header's name for comparison: lower case, without signs and doubled spaces."""
    return " ".join(re.sub(r"[\W_]+", " ", cell.casefold().replace("ё", "е")).split())


def make_attribute_name(header: str) -> str | None:
    """Return a name for the attribute of a column; None if the header has nothing to use."""
    given = header.strip()
    if is_attribute_name(given):
        return given
    name = re.sub(f"[^{NAME_LETTERS}0-9]+", "_", given).strip("_")
    if name[:1].isdigit() or name in CLIENT_FIELDS:
        name = f"_{name}"
    return name[:MAX_NAME_LENGTH].rstrip("_") or None


def plan_named_columns(
    names: Mapping[str, str], required: Sequence[str], header: Sequence[str]
) -> ColumnPlan:
    """Return the columns whose names are known; all others are ignored. Raise BadHeader."""
    plan = ColumnPlan({}, {}, [])
    for index, cell in enumerate(header):
        column = names.get(normalize_header(cell))
        if column is not None:
            _add(plan.columns, column, index)
        elif cell.strip():
            _ignore(plan, cell)
    _require(plan, required)
    return plan


def plan_client_columns(header: Sequence[str], mapping: ColumnMapping = NO_MAPPING) -> ColumnPlan:
    """Return what the columns of a file of clients are. Raise BadHeader."""
    targets, exact = propose_columns(header)
    for key, target in mapping.columns.items():
        for index in _find_column(header, key):
            targets[index] = target
    plan = ColumnPlan({}, {}, [], exact)
    for index, (cell, target) in enumerate(zip(header, targets, strict=True)):
        if target in COLUMNS:
            _add(plan.columns, target, index)
        elif target is None or len(plan.extras) == MAX_ATTRIBUTE_COLUMNS:
            if cell.strip():
                _ignore(plan, cell)
        else:
            _add(plan.extras, target, index)
    _require(plan, ("phone",))
    return plan


def propose_columns(header: Sequence[str]) -> tuple[list[str | None], bool]:
    """Return a field, an attribute or None for each column; and whether this is an export."""
    cells = [cell.strip() for cell in header]
    if tuple(cells[: len(EXPORT_COLUMNS)]) == EXPORT_COLUMNS:
        fixed = [name if name in COLUMNS else None for name in EXPORT_COLUMNS]
        return [*fixed, *map(make_attribute_name, cells[len(fixed) :])], True
    if tuple(cells[: len(REJECTED_FIRST)]) == REJECTED_FIRST and cells[-1] == REJECTED_LAST:
        attributes = map(make_attribute_name, cells[len(REJECTED_FIRST) : -1])
        return [None, *COLUMNS, *attributes, None], False
    return [
        COLUMN_NAMES.get(normalize_header(cell))
        or make_attribute_name(cell)
        or (f"column_{position}" if cell else None)
        for position, cell in enumerate(cells, 1)
    ], False


def _find_column(header: Sequence[str], key: str) -> list[int]:
    """Return the position of a mapped column, named by its header or as #3. Raise BadHeader."""
    found = [index for index, cell in enumerate(header) if cell.strip() == key.strip()]
    if not found and re.fullmatch(r"#[1-9][0-9]{0,3}", key) and int(key[1:]) <= len(header):
        found = [int(key[1:]) - 1]
    if len(found) != 1:
        shown = key[:MAX_REPORTED_NAME_LENGTH]
        raise BadHeader(
            f"The mapping names the column {shown}, which the file lacks or has more than once.",
            "mapped_column",
            column=shown,
        )
    return found


def _add(found: dict[str, int], column: str, index: int) -> None:
    if column in found:
        raise BadHeader(
            f"The header names the column {column} twice: leave one of them.",
            "column_twice",
            column=column,
        )
    found[column] = index


def _ignore(plan: ColumnPlan, cell: str) -> None:
    if len(plan.ignored) < MAX_REPORTED_COLUMNS:
        plan.ignored.append(cell.strip()[:MAX_REPORTED_NAME_LENGTH])


def _require(plan: ColumnPlan, required: Sequence[str]) -> None:
    for column in required:
        if column not in plan.columns:
            raise BadHeader(
                f"The first line must name the columns, and {column} must be among them, for "
                "example: phone,operator_code,tag,timezone",
                "column_missing",
                column=column,
            )
