"""The command `flask --app api logs`: find log lines by mailing, message, client or request."""

import os
import stat
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from api.cli.log_search import Line, LogQuery, LogSearch, format_json, parse_since

# These fields are printed first; the others follow in the order of the line.
FIRST_FIELDS = ("outcome", "http_status", "reason", "why", "status", "mailing_id", "message_id")
# Fields that are printed elsewhere or omitted.
OMITTED_FIELDS = {"ts", "level", "event", "service", "job_id", "actor_id"}
LEVEL_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
GOOD_VALUES, BAD_VALUES = (
    {"accepted", "finished", "done"},
    {"rejected", "unknown", "unavailable", "unauthorized"},
)


class Since(click.ParamType):  # type: ignore[type-arg]
    """An instant, or a duration before now."""

    name = "10m|2h|1d|instant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return parse_since(value, datetime.now(UTC))
        except ValueError:
            self.fail(f"{value!r} is neither a duration (10m, 2h, 1d) nor an instant", param, ctx)


@click.command("logs")
@click.option("--mailing", type=int, help="Lines about a mailing.")
@click.option("--message", type=int, help="Lines about a message.")
@click.option("--client", type=int, help="Lines about a client.")
@click.option("--request", help="Lines about a request (X-Request-ID) and its jobs.")
@click.option("--since", type=Since(), help="Nothing older than this.")
@click.option("--json/--text", "json", default=None, help="Default: text on a terminal, else JSON.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, allow_dash=True, path_type=Path))
def log_commands(
    mailing: int | None,
    message: int | None,
    client: int | None,
    request: str | None,
    since: datetime | None,
    json: bool | None,
    files: tuple[Path, ...],
) -> None:
    """Print, in order, the log lines about a mailing, a message, a client or a request.

    Reads FILES (- for standard input; a pipe is read by default), or else the logs of the local
    stack: .local/logs/*.log.
    """
    search = LogSearch(LogQuery(mailing, message, client, request, since))
    for file in files or _default_files():
        if str(file) == "-":
            search.read_lines(sys.stdin)
        else:
            with file.open(encoding="utf-8", errors="replace") as lines:
                search.read_lines(lines)
    found = search.sorted_lines()
    if json or (json is None and not sys.stdout.isatty()):
        _write_lines(format_json(found))
    else:
        _write_lines(map(_format_line, found))
    if not found:
        raise click.ClickException(f"nothing of that in {search.lines_read:,} lines")


def _write_lines(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _default_files() -> list[Path]:
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISREG(mode):
        return [Path("-")]
    folder = Path(os.environ.get("LOCAL_DIR") or ".local") / "logs"
    files = sorted(folder.glob("*.log"))
    if not files:
        raise click.ClickException(f"no logs in {folder}/: name the files, or pipe them in")
    return files


def _format_line(line: Line) -> str:
    at = str(line["ts"]).replace("T", " ").rstrip("Z")
    event = click.style(
        f"{line['event']:<22}", fg=LEVEL_COLOURS.get(line["level"], "cyan"), bold=True
    )
    names = [name for name in FIRST_FIELDS if name in line]
    names += [name for name in line if name not in OMITTED_FIELDS and name not in FIRST_FIELDS]
    fields = (_format_field(name, line[name]) for name in names if line[name] not in (None, False))
    service = click.style(f"{line.get('service', ''):<9}", dim=True)
    return f"{click.style(at, dim=True)}  {service}  {event}  {'  '.join(fields)}"


def _format_field(name: str, value: Any) -> str:
    shown = str(value)
    if isinstance(value, list) and len(value) > 5:
        shown = f"{value[0]}…{value[-1]} ({len(value)})"
    elif isinstance(value, list):
        shown = ",".join(map(str, value))
    if "\n" in shown:
        shown = "\n    " + shown.rstrip().replace("\n", "\n    ")
    if name in ("outcome", "why", "status", "http_status"):
        shown = click.style(shown, fg=_colour(shown))
    label = click.style(name.removesuffix("_id") + "=", dim=True)
    return f"{label}{shown}"


def _colour(value: str) -> str | None:
    if value in GOOD_VALUES or value.startswith("2"):
        return "green"
    return "red" if value in BAD_VALUES or value[:1] in "45" else "yellow"
