"""Commands for clients: flask --app api clients import FILE."""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import click
from click.termui import progressbar
from flask import Flask, current_app
from flask.cli import AppGroup

from api.actor import COMMAND
from api.clients.import_upload import receive
from api.db import db, transaction
from shared.client_import.csv_reader import BadFile, CsvReader
from shared.client_import.merge import merge_chunk
from shared.client_import.row_rules import (
    COLUMN_NAMES,
    MAX_TAG_LENGTH,
    RowParser,
    parse_attribute_name,
)
from shared.db.import_models import Import, RejectedRow
from shared.domain.attributes import MAX_ATTRIBUTES
from shared.domain.statuses import ImportStatus
from shared.domain.time_zones import TIME_ZONES

client_commands = AppGroup("clients", help="Work on the directory of clients.")

SHOWN_ERRORS = 20


def _check_zone(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is not None and given not in TIME_ZONES:
        raise click.BadParameter("must be an IANA time zone, for example Europe/Moscow")
    return given


def _check_tag(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is not None and len(given) > MAX_TAG_LENGTH:
        raise click.BadParameter(f"must be at most {MAX_TAG_LENGTH} characters")
    return given


@client_commands.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--tag", callback=_check_tag, help="The tag of rows that have none.")
@click.option("--timezone", callback=_check_zone, help="The time zone of rows that have none.")
def import_(file: BinaryIO, tag: str | None, timezone: str | None) -> None:
    """Import clients from the CSV FILE (- for standard input), as the API does.

    Works on the database directly; no other process needs to run.
    """
    default_timezone = current_app.config["DEFAULT_TIMEZONE"]
    rules = RowParser(tag, timezone, default_timezone is not None)
    try:
        import_id = _read(file, rules, default_timezone)
    except BadFile as error:
        raise click.ClickException(str(error)) from None
    _merge(import_id)
    _report(import_id)


def _read(file: BinaryIO, rules: RowParser, default_timezone: str | None) -> int:
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0
    limit = current_app.config["IMPORT_MAX_BYTES"]
    sheet = CsvReader(
        file.read, COLUMN_NAMES, ("phone",), limit, parse_attribute_name, MAX_ATTRIBUTES
    )
    with _bar(size, "Reading") as bar:
        return receive(
            sheet,
            rules,
            COMMAND,
            default_timezone,
            progress=lambda: bar.update(sheet.size - bar.pos),
        )


def _merge(import_id: int) -> None:
    """Merge with two connections. The fleet, if there is one, may have its hands on it as well."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    found = _find(import_id)

    def merge_parts(update: Callable[[int], object]) -> None:
        with app.app_context():
            while _find(import_id).status == ImportStatus.RUNNING:
                with transaction() as cursor:
                    merged = merge_chunk(cursor, import_id)
                if merged is None:
                    time.sleep(0.05)  # others are at all of it
                else:
                    update(merged.rows)

    left = found.rows_total - found.rows_done
    with _bar(left, "Merging") as bar, ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(merge_parts, bar.update) for _ in range(2)]:
            done.result()


def _report(import_id: int) -> None:
    found = _find(import_id)
    errors = (
        db.session.query(RejectedRow.line, RejectedRow.faults)
        .filter_by(import_id=import_id)
        .order_by(RejectedRow.line)
        .limit(SHOWN_ERRORS)
    )
    for line, faults in errors:
        click.echo(f"line {line}: {'; '.join(fault[1] for fault in faults)}", err=True)
    if found.rejected > SHOWN_ERRORS:
        click.echo(f"… and {found.rejected - SHOWN_ERRORS} more rejected rows", err=True)
    if found.ignored_columns:
        click.echo(f"ignored columns: {', '.join(found.ignored_columns)}", err=True)
    click.echo(
        f"import {import_id}: {found.rows_total} rows, {found.created} created, "
        f"{found.updated} updated, {found.unchanged} unchanged, {found.rejected} rejected"
    )
    if found.failure is not None:
        raise click.ClickException(found.failure)


def _find(import_id: int) -> Import:
    db.session.expire_all()
    found = db.session.get_one(Import, import_id)
    db.session.rollback()
    return found


def _bar(length: int, label: str) -> Any:
    return progressbar(length=length, label=label, file=sys.stderr)
