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
from api.clients.import_check import FileCheck, check_file, parse_mapping
from api.clients.import_service import get_import, list_rejected_rows
from api.clients.import_upload import (
    ImportOptions,
    delete_draft,
    open_client_file,
    receive_rows,
)
from api.db import db, transaction
from shared.client_import.bad_file import BadFile
from shared.client_import.columns import NO_MAPPING, ColumnMapping
from shared.client_import.merge import merge_chunk
from shared.client_import.row_rules import MAX_TAG_LENGTH
from shared.db.import_models import Import
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


def _read_mapping(_: click.Context, __: click.Parameter, given: str | None) -> ColumnMapping:
    mapping = parse_mapping(given) if given else NO_MAPPING
    if mapping is None:
        raise click.BadParameter("must be JSON with columns and timezones")
    return mapping


@client_commands.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--tag", callback=_check_tag, help="The tag of rows that have none.")
@click.option("--timezone", callback=_check_zone, help="The time zone of rows that have none.")
@click.option(
    "--mapping",
    callback=_read_mapping,
    help="What the columns are, and what offsets of time zones mean, as JSON (see the API).",
)
@click.option("--check", is_flag=True, help="Say what the import would do, and change nothing.")
def import_(
    file: BinaryIO, tag: str | None, timezone: str | None, mapping: ColumnMapping, check: bool
) -> None:
    """Import clients from FILE, CSV or XLSX (- for standard input), as the API does.

    Works on the database directly; no other process needs to run.
    """
    name = "" if file is sys.stdin.buffer else os.path.basename(file.name)
    options = ImportOptions(COMMAND, tag, timezone, mapping, name)
    try:
        if check:
            _print_check(check_file(file.read, options))
            return
        import_id = _receive(file, options)
    except BadFile as error:
        raise click.ClickException(str(error)) from None
    _merge(import_id)
    _print_report(import_id)


def _print_check(found: FileCheck) -> None:
    delete_draft(found.import_id)
    for column in found.columns:
        samples = ", ".join(column.samples)
        click.echo(f"{column.header}: {column.target or 'ignored'} ({samples})", err=True)
    for zone in found.zones:
        click.echo(
            f"timezone {zone.value} ({zone.rows} rows): {zone.timezone}, if --mapping confirms it",
            err=True,
        )
    for error in found.errors[:SHOWN_ERRORS]:
        click.echo(f"row {error.line}: {error.sentence}", err=True)
    merge = found.merge
    click.echo(
        f"{merge.rows} rows: {merge.created} new, {merge.updated} changed, "
        f"{merge.unchanged} unchanged, {merge.rejected} rejected"
    )


def _receive(file: BinaryIO, options: ImportOptions) -> int:
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0
    reader = open_client_file(file.read, options.mapping)
    with _progress_bar(size, "Reading") as bar:
        return receive_rows(reader, options, lambda: bar.update(reader.size - bar.pos))


def _merge(import_id: int) -> None:
    """Merge with two connections. Workers, if any run, may merge parts of it at the same time."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    found = _reload(import_id)

    def merge_parts(update: Callable[[int], object]) -> None:
        with app.app_context():
            while _reload(import_id).status == ImportStatus.RUNNING:
                with transaction() as cursor:
                    merged = merge_chunk(cursor, import_id)
                if merged is None:
                    time.sleep(0.05)  # workers have locked all parts
                else:
                    update(merged.rows)

    left = found.rows_total - found.rows_done
    with _progress_bar(left, "Merging") as bar, ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(merge_parts, bar.update) for _ in range(2)]:
            done.result()


def _print_report(import_id: int) -> None:
    found = _reload(import_id)
    for line, errors in list_rejected_rows(import_id, SHOWN_ERRORS):
        click.echo(f"row {line}: {'; '.join(error.sentence for error in errors)}", err=True)
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


def _reload(import_id: int) -> Import:
    db.session.expire_all()
    found = get_import(import_id)
    db.session.rollback()
    return found


def _progress_bar(length: int, label: str) -> Any:
    return progressbar(length=length, label=label, file=sys.stderr)
