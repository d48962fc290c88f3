"""The form that says what the columns of an uploaded file are, and what its time zones mean."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.client_import.columns import COLUMNS, ColumnMapping, make_attribute_name
from shared.domain.attributes import is_attribute_name
from shared.domain.phones import InvalidPhone, parse_phone
from shared.domain.zone_names import parse_zone

ATTRIBUTE, IGNORE = "attribute", "ignore"
CHOICES = (*COLUMNS, ATTRIBUTE, IGNORE)


class MappingFields(NamedTuple):
    """What the form holds: a choice and a name for each column, a zone for each cell."""

    choices: list[str]
    names: list[str]
    zones: list[str]
    confirmed: list[bool]


def propose_fields(columns: Sequence[Sequence[object]]) -> MappingFields:
    """Return the form of a file that was just uploaded. Columns are (header, target, samples).

    No field is proposed twice; without a column that is named as the phone, the one that holds
    phones is proposed.
    """
    targets = [str(target or "") for _, target, _ in columns]
    if "phone" not in targets:
        held = [_count_phones(samples) for _, _, samples in columns]
        if any(held):
            targets[held.index(max(held))] = "phone"
    choices: list[str] = []
    for target in targets:
        is_field = target in COLUMNS and target not in choices
        choices.append(target if is_field else ATTRIBUTE if target else IGNORE)
    names = [""] * len(columns)
    # Attributes keep their names; those of other columns are wanted only if a person changes them.
    for at in sorted(range(len(columns)), key=lambda at: choices[at] != ATTRIBUTE):
        own = targets[at] if targets[at] not in COLUMNS else ""
        name = own or make_attribute_name(str(columns[at][0])) or f"column_{at + 1}"
        names[at] = _make_unique(name, names)
    return MappingFields(choices, names, [], [])


def read_fields(form: Mapping[str, str], columns: int, zones: int) -> MappingFields:
    """Return what a person has submitted."""
    choices = [form.get(f"target-{at}", IGNORE) for at in range(columns)]
    return MappingFields(
        [choice if choice in CHOICES else IGNORE for choice in choices],
        [form.get(f"name-{at}", "").strip() for at in range(columns)],
        [form.get(f"zone-{at}", "").strip() for at in range(zones)],
        [f"confirm-{at}" in form for at in range(zones)],
    )


def restore_fields(
    mapping: Mapping[str, Mapping[str, str | None]], state: Mapping[str, Any]
) -> MappingFields:
    """Return the form that a mapping was made of."""
    proposed = propose_fields(state["columns"])
    columns, confirmed = mapping.get("columns", {}), mapping.get("timezones", {})
    zones = state.get("zones", [])
    choices, names = list(proposed.choices), list(proposed.names)
    for at in range(len(choices)):
        if f"#{at + 1}" in columns:
            target = columns[f"#{at + 1}"]
            is_field = target in COLUMNS
            choices[at] = str(target) if is_field else IGNORE if target is None else ATTRIBUTE
            names[at] = names[at] if is_field or target is None else str(target)
    return MappingFields(
        choices,
        names,
        [str(confirmed.get(value) or zone) for value, zone, _ in zones],
        [value in confirmed for value, _, _ in zones],
    )


def make_mapping(fields: MappingFields, values: Sequence[str]) -> ColumnMapping:
    """Return the mapping that the form describes; `values` are the cells of time zones."""
    columns: dict[str, str | None] = {}
    for at, (choice, name) in enumerate(zip(fields.choices, fields.names, strict=True), 1):
        columns[f"#{at}"] = name if choice == ATTRIBUTE else None if choice == IGNORE else choice
    zones = {
        value: parse_zone(zone) or ""
        for value, zone, confirmed in zip(values, fields.zones, fields.confirmed, strict=True)
        if confirmed
    }
    return ColumnMapping(columns, zones)


def find_errors(fields: MappingFields) -> dict[str, str]:
    """Return the fields of the form that are wrong, with a code for each."""
    errors: dict[str, str] = {}
    used: set[str] = set()
    for at, (choice, name) in enumerate(zip(fields.choices, fields.names, strict=True)):
        target = name if choice == ATTRIBUTE else choice
        if choice == ATTRIBUTE and not is_attribute_name(name):
            errors[f"name-{at}"] = "attribute_name"
        elif choice != IGNORE and target in used:
            errors[f"target-{at}"] = "used_twice"
        used.add(target)
    if "phone" not in fields.choices:
        errors["target-0"] = "phone_missing"
    for at, (zone, confirmed) in enumerate(zip(fields.zones, fields.confirmed, strict=True)):
        if confirmed and parse_zone(zone) is None:
            errors[f"zone-{at}"] = "timezone_unknown"
    return errors


def _count_phones(samples: object) -> int:
    count = 0
    for cell in samples if isinstance(samples, list) else []:
        try:
            parse_phone(str(cell))
        except InvalidPhone:
            continue
        count += 1
    return count


def _make_unique(name: str, names: Sequence[str]) -> str:
    made, number = name, 2
    while made in names:
        made, number = f"{name[:28]}_{number}", number + 1
    return made
