"""Opt-outs: phones that must never be sent anything. Add, import, list, export and remove them.

An opt-out belongs to the phone, whichever client has it now or later.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import delete, select

from api.actor import Actor
from api.audit_log import service as audit_log
from api.client_log import bind_owners
from api.cursors import Page
from api.db import db, session_cursor
from api.errors import NotFound
from api.idempotency import IdempotencyKey
from shared.client_import.columns import COLUMN_NAMES as CLIENT_COLUMN_NAMES
from shared.client_import.columns import plan_named_columns
from shared.client_import.csv_reader import CsvReader
from shared.db import opt_outs as opt_out_records
from shared.db.opt_outs import OptOut
from shared.domain.error_texts import error_text
from shared.domain.phones import parse_phone
from shared.domain.spreadsheets import unescape_formula
from shared.logging.redaction import mask_phone

log = structlog.get_logger()

# A file is added in chunks of this many phones, each committed, so that no lock is held for long.
CHUNK_PHONES = 1_000
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_REPORTED_FAULTS = 100
MAX_SOURCE_LENGTH = 64
EXPORT_PAGE_ROWS = 5_000
EXPORT_COLUMNS = ("phone", "source", "created_at")

COLUMN_NAMES = {
    **{name: column for name, column in CLIENT_COLUMN_NAMES.items() if column == "phone"},
    "номер": "phone",
    **dict.fromkeys(("source", "reason", "источник", "причина"), "source"),
}


class AddedOptOuts(NamedTuple):
    """How many phones were new, how many were opted out before, how many messages ended."""

    added: int
    existing: int
    messages_cancelled: int
    replayed: bool = False

    def counts(self) -> dict[str, int]:
        return {name: value for name, value in self._asdict().items() if name != "replayed"}


@dataclass
class ImportedOptOuts:
    """The totals of an imported file, and its first MAX_REPORTED_FAULTS rejected rows."""

    rows: int = 0
    added: int = 0
    existing: int = 0
    rejected: int = 0
    messages_cancelled: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)


def add_opt_outs(
    phones: Iterable[int], source: str, actor: Actor, key: IdempotencyKey | None = None
) -> AddedOptOuts:
    """Opt phones out and cancel what is pending for their clients; an existing opt-out stays.

    With `key`, a repetition of an earlier request changes nothing and returns the first counts.
    """
    phones = set(phones)
    bind_owners(sorted(phones))
    if key is not None and (first := key.claim()) is not None:
        return AddedOptOuts(**first, replayed=True)
    result = _add(phones, source, actor, key)
    log.info("opt_outs.added", added=result.added, messages_cancelled=result.messages_cancelled)
    return result


def import_opt_outs(read: Callable[[int], bytes], source: str, actor: Actor) -> ImportedOptOuts:
    """Add the phones of a CSV file, committing every CHUNK_PHONES; reject rows without a phone.

    `read(n)` returns up to n bytes. `source` is for rows that name none. Raise BadFile; then the
    chunks before stay added.
    """
    plan = partial(plan_named_columns, COLUMN_NAMES, ("phone",))
    reader = CsvReader(read, plan, MAX_FILE_BYTES)
    result = ImportedOptOuts()
    for chunk in _read_chunks(reader, source, result):
        for row_source, phones in sorted(chunk.items()):
            done = _add(phones, row_source, actor)
            result.added += done.added
            result.existing += done.existing
            result.messages_cancelled += done.messages_cancelled
    totals = {name: value for name, value in vars(result).items() if name != "faults"}
    log.info("opt_outs.imported", **totals)
    return result


def list_opt_outs(page: Page, phone: int | None = None) -> Sequence[OptOut]:
    """Return a page of opt-outs by phone, or that of one phone."""
    found = select(OptOut)
    if phone is not None:
        bind_owners([phone])
        found = found.where(OptOut.phone == phone)
    return db.session.scalars(page.bound(found, OptOut.phone)).all()


def iter_opt_out_pages() -> Iterator[Sequence[Any]]:
    """Yield all opt-outs in pages of rows of EXPORT_COLUMNS, by phone."""
    columns = (getattr(OptOut, name) for name in EXPORT_COLUMNS)
    page = select(*columns).order_by(OptOut.phone).limit(EXPORT_PAGE_ROWS)
    after = 0
    while rows := db.session.execute(page.where(OptOut.phone > after)).all():
        yield rows
        after = rows[-1].phone


def remove_opt_out(phone: int, actor: Actor) -> None:
    """Remove the opt-out of a phone; cancelled messages stay cancelled. Raise NotFound."""
    owners = bind_owners([phone])
    removed = delete(OptOut).where(OptOut.phone == phone).returning(OptOut.source)
    source = db.session.scalar(removed)
    if source is None:
        raise NotFound(error_text("This phone is not opted out."))
    changes = {"phone": mask_phone(phone), "source": source}
    owner = owners[0] if owners else None
    audit_log.record_change(actor, "removed", "opt_out", owner, changes)
    db.session.commit()
    log.info("opt_out.removed", phone=mask_phone(phone))


def _add(
    phones: set[int], source: str, actor: Actor, key: IdempotencyKey | None = None
) -> AddedOptOuts:
    owners, cancelled = opt_out_records.add_opt_outs(session_cursor(), sorted(phones), source)
    entries = [
        (client_id, {"phone": mask_phone(phone), "source": source})
        for phone, client_id in owners.items()
    ]
    audit_log.record_changes(actor, "added", "opt_out", entries)
    result = AddedOptOuts(len(owners), len(phones) - len(owners), cancelled)
    if key is not None:
        key.store(result.counts())
    db.session.commit()
    return result


def _read_chunks(
    reader: CsvReader, default_source: str, result: ImportedOptOuts
) -> Iterator[dict[str, set[int]]]:
    """Yield chunks of phones by their source; count rows and rejected rows in `result`."""
    chunk: dict[str, set[int]] = {}
    at_phone, at_source = reader.columns["phone"], reader.columns.get("source")
    size = 0
    for row in reader:
        result.rows += 1
        cells = row.cells + [""] * (reader.width - len(row.cells))
        try:
            if row.fault is not None:
                raise ValueError(row.fault)
            phone = int(parse_phone(cells[at_phone]))
        except ValueError as error:
            result.rejected += 1
            if len(result.faults) < MAX_REPORTED_FAULTS:
                result.faults.append({"line": row.line, "detail": str(error)})
            continue
        source = unescape_formula(cells[at_source].strip()) if at_source is not None else ""
        chunk.setdefault(source[:MAX_SOURCE_LENGTH] or default_source, set()).add(phone)
        size += 1
        if size == CHUNK_PHONES:
            yield chunk
            chunk, size = {}, 0
    yield chunk
