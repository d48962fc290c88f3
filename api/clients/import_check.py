"""Check a file of clients: what its columns are, and what its import would do, before it does it.

A check receives the file as a draft, which can be made an import without sending the file again.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from api.clients.import_service import RejectedCell, list_rejected_cells
from api.clients.import_upload import (
    ClientFile,
    ImportOptions,
    delete_draft,
    open_client_file,
    open_ndjson_file,
    receive_draft,
)
from api.db import transaction
from shared.client_import.columns import (
    COLUMNS,
    ColumnMapping,
    ColumnPlan,
    propose_columns,
)
from shared.client_import.ndjson_reader import NdjsonReader
from shared.client_import.preview import MergePreview, preview_merge
from shared.domain.attributes import is_attribute_name
from shared.domain.time_zones import TIME_ZONES

log = structlog.get_logger()

SAMPLE_ROWS = 20
SHOWN_SAMPLES = 3
MAX_SAMPLE_LENGTH = 60
MAX_MAPPING_LENGTH = 32_768
COUNT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"


class FileColumn(NamedTuple):
    """A column: its header, what it is (None: ignored), and its first different values."""

    header: str
    target: str | None
    samples: list[str]


class ProposedZone(NamedTuple):
    """A cell of the column of time zones that waits for confirmation: its zone, and its rows."""

    value: str
    timezone: str
    rows: int


class FileCheck(NamedTuple):
    """What an import of a file would do; `import_id` is the draft's."""

    import_id: int
    columns: list[FileColumn]
    zones: list[ProposedZone]
    merge: MergePreview
    errors: list[RejectedCell]


def parse_mapping(text: str) -> ColumnMapping | None:
    """Return the mapping in a JSON text; None if it is not one."""
    try:
        given = json.loads(text) if len(text) <= MAX_MAPPING_LENGTH else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or given.keys() - {"columns", "timezones"}:
        return None
    columns, zones = given.get("columns", {}), given.get("timezones", {})
    if not isinstance(columns, dict) or not isinstance(zones, dict):
        return None
    targets = columns.values()
    if not all(target is None or is_target(target) for target in targets):
        return None
    if not all(isinstance(zone, str) and zone in TIME_ZONES for zone in zones.values()):
        return None
    return ColumnMapping(columns, zones)


def is_target(target: object) -> bool:
    """Return whether a column can be this: a field of a client, or an attribute."""
    return isinstance(target, str) and (target in COLUMNS or is_attribute_name(target))


def check_file(
    read: Callable[[int], bytes], options: ImportOptions, *, ndjson: bool = False
) -> FileCheck:
    """Receive a file as a draft, and count what its import would do. Raise BadFile.

    The caller deletes the draft or starts its merge; after an hour the sweep deletes it.
    """
    reader = open_ndjson_file(read) if ndjson else open_client_file(read, options.mapping)
    columns = []
    if not isinstance(reader, NdjsonReader):
        columns = describe_columns(reader.header, reader.sample(SAMPLE_ROWS), _targets(reader))
    draft, parser = receive_draft(reader, options)
    try:
        with transaction() as cursor:
            cursor.execute(COUNT_TIMEOUT)
            merge = preview_merge(cursor, draft)
        zones = [ProposedZone(key, *found) for key, found in parser.proposed_zones.items()]
        return FileCheck(draft, columns, zones, merge, list_rejected_cells(draft))
    except BaseException:
        delete_draft(draft)
        raise


def check_upload(
    read: Callable[[int], bytes], options: ImportOptions, *, ndjson: bool = False
) -> FileCheck:
    """Check a file like `check_file`, and log what the import would do."""
    started = time.monotonic()
    found = check_file(read, options, ndjson=ndjson)
    seconds = round(time.monotonic() - started, 3)
    log.info("import.checked", import_id=found.import_id, seconds=seconds, **found.merge._asdict())
    return found


def inspect_columns(read: Callable[[int], bytes]) -> list[FileColumn]:
    """Return the columns of a file with proposals, also if they are not enough. Raise BadFile."""
    reader = open_client_file(read, plan=lambda *_: ColumnPlan({}, {}, []))
    try:
        targets, _ = propose_columns(reader.header)
        return describe_columns(reader.header, reader.sample(SAMPLE_ROWS), targets)
    finally:
        reader.close()


def describe_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], targets: Sequence[str | None]
) -> list[FileColumn]:
    """Return the columns with their first different values."""
    columns = []
    for index, (cell, target) in enumerate(zip(header, targets, strict=True)):
        values = (row[index].strip()[:MAX_SAMPLE_LENGTH] for row in rows if index < len(row))
        samples = list(dict.fromkeys(filter(None, values)))[:SHOWN_SAMPLES]
        columns.append(FileColumn(cell.strip(), target, samples))
    return columns


def _targets(reader: ClientFile) -> list[str | None]:
    """Return what each column is, by position."""
    targets: list[str | None] = [None] * reader.width
    for found in (reader.columns, reader.extras):
        for name, index in found.items():
            targets[index] = name
    return targets
