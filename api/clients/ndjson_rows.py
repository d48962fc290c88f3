"""Parses the lines of an NDJSON file of clients for an import, by the rules of CSV files."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from api.clients.row_receiver import (
    COPY_ESCAPES,
    NULL,
    RowReceiver,
    copy_attributes,
    copy_fields,
)
from shared.client_import.columns import COLUMNS
from shared.client_import.ndjson_reader import NdjsonReader
from shared.client_import.row_rules import CellError, ClientRow, RowParser
from shared.domain.attributes import MAX_ATTRIBUTES, parse_attribute_name
from shared.domain.phones import PHONE

NOT_AN_OBJECT = "the line must be one JSON object in UTF-8"
UNKNOWN_FIELD = f"is none of the fields {', '.join(COLUMNS)} and attributes"
FIELDS = {*COLUMNS, "attributes"}
MAX_NAME_LENGTH = 64
NUL = b"\\u0000"


class NdjsonRowReceiver(RowReceiver):
    """Receives the lines of an NDJSON file."""

    def __init__(self, import_id: int, reader: NdjsonReader, parser: RowParser):
        super().__init__(import_id, parser)
        self._reader = reader

    def _parse_rows(self) -> Iterator[None]:
        """Parse all lines, yielding after every 500; the hot loop of an import.

        Lines whose values were all parsed before take the short way, without the parser.
        """
        is_phone = PHONE.fullmatch
        accept = self._accepted.append
        codes, tags, zones = self._codes, self._tags, self._zones
        load = orjson.loads
        without_tag = self._write_absent_tag()
        for rows, (at, line) in enumerate(self._reader, 1):
            try:
                document = load(line)
            except orjson.JSONDecodeError:
                document = None
            if type(document) is not dict:
                self._reject(at, [""] * 4, {}, [CellError("", NOT_AN_OBJECT, "not_an_object")])
            else:
                attributes: str | None = NULL
                try:
                    phone = document["phone"]
                    tag = tags.get(document["tag"]) if "tag" in document else without_tag
                    zone = zones.get(document.get("timezone", ""))
                    code = codes.get(document.get("operator_code", ""))
                    if "attributes" in document:
                        attributes = self._write_attributes(document["attributes"], line)
                    known = document.keys() <= FIELDS and is_phone(phone)
                except (
                    AttributeError,
                    KeyError,
                    TypeError,
                ):  # no phone, or not a text
                    known = None
                if known and code and zone and tag is not None and attributes:
                    accept(f"{at}\t{phone}\t{code}\t{tag}\t{zone}\t{attributes}\n")
                else:
                    self._parse_document(at, document, NUL in line)
            if not rows % 500:
                yield

    def _write_absent_tag(self) -> str:
        """Return the COPY text of the tag of lines that have none."""
        tag = self._parser.parse_tag(None)
        return NULL if tag is None else tag.translate(COPY_ESCAPES)

    def _write_attributes(self, given: Mapping[str, str], line: bytes) -> str | None:
        """Return attributes as COPY text; None if they have new names, or are invalid."""
        if not given.keys() <= self._reader.extras.keys() or NUL in line:
            return None
        attributes, faults = self._parser.parse_attributes(given)
        return None if faults else copy_attributes(attributes)

    def _parse_document(self, at: int, document: Mapping[str, Any], may_hold_nul: bool) -> None:
        """Accept or reject a line that has values not parsed before, or is malformed."""
        faults = [
            CellError(_shorten(name), f"{_shorten(name)} {UNKNOWN_FIELD}", "unknown_field")
            for name in document
            if name not in FIELDS
        ]
        given = [self._read_text(document, name, faults) for name in COLUMNS]
        extra = self._read_attributes(document.get("attributes"), faults)
        if may_hold_nul:
            texts = {**dict(zip(COLUMNS, given, strict=True)), **extra}
            held = [name for name, value in texts.items() if "\x00" in value]
            faults += [CellError(name, f"{name} must not hold NUL", "nul") for name in held]
            given = [value.replace("\x00", "") for value in given]
            extra = {name: value.replace("\x00", "") for name, value in extra.items()}
        phone, code, tag, zone = given
        known_tag = tag if document.get("tag") is not None else None
        parsed = self._parser.parse_row(phone, code, known_tag, zone)
        attributes, wrong = self._parser.parse_attributes(extra)
        faults += wrong
        if isinstance(parsed, ClientRow) and not faults:
            if known_tag is None:  # not cached: an absent tag is not an empty one
                self._append(at, copy_fields(parsed), attributes)
            else:
                self._accept(at, given, parsed, attributes)
        else:
            reported = {fault.column for fault in faults}
            if isinstance(parsed, list):
                faults += [fault for fault in parsed if fault.column not in reported]
            self._reject(at, given, extra, faults)

    def _read_text(self, document: Mapping[str, Any], name: str, faults: list[CellError]) -> str:
        value = document.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            faults.append(CellError(name, f"{name} must be a string", "not_a_string"))
            return ""
        return value

    def _read_attributes(self, given: object, faults: list[CellError]) -> dict[str, str]:
        """Return the attributes that are texts, by their stored names; add what is wrong."""
        if given is None:
            return {}
        if not isinstance(given, dict):
            detail = "attributes must be an object"
            faults.append(CellError("attributes", detail, "not_an_object"))
            return {}
        found: dict[str, str] = {}
        for name, value in given.items():
            if parse_attribute_name(name) != name:
                shown = _shorten(name) or '""'
                detail = f"{shown} cannot be the name of an attribute"
                faults.append(CellError("attributes", detail, "attribute_name", shown))
            elif not isinstance(value, str):
                faults.append(CellError(name, f"{name} must be a string", "not_a_string"))
            else:
                found[name] = value
        if len(given) > MAX_ATTRIBUTES:
            detail = f"attributes may be at most {MAX_ATTRIBUTES}"
            faults.append(CellError("attributes", detail, "too_many_attributes"))
        for name in found:  # the columns of the file of rejected rows
            if len(self._reader.extras) < MAX_ATTRIBUTES:
                self._reader.extras.setdefault(name, len(self._reader.extras))
        return found


def _shorten(name: str) -> str:
    return name[:MAX_NAME_LENGTH].replace("\x00", "")
