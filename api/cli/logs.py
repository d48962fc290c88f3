"""`flask --app api logs`: what happened to a mailing, a message, a client or a request."""

import os
import stat
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from api.cli.log_search import Line, Question, Story, as_json, instant

# The rest of a line's fields follow these, in the order they were written.
FIRST = ("outcome", "http_status", "reason", "why", "status", "mailing_id", "message_id")
# What JSON has and a person can do without.
SAID = {"ts", "level", "event", "service", "job_id", "actor_id"}
LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}
GOOD, BAD = {"accepted", "finished", "done"}, {"rejected", "unknown", "unavailable", "unauthorized"}


class Instant(click.ParamType):  # type: ignore[type-arg]
    """A moment, or how long ago."""

    name = "10m|2h|1d|instant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return instant(value, datetime.now(UTC))
        except ValueError:
            self.fail(f"{value!r} is neither a duration (10m, 2h, 1d) nor an instant", param, ctx)


@click.command("logs")
@click.option("--mailing", type=int, help="The story of a mailing.")
@click.option("--message", type=int, help="The story of a message.")
@click.option("--client", type=int, help="The story of a client.")
@click.option("--request", help="What a request (X-Request-ID) has led to.")
@click.option("--since", type=Instant(), help="Nothing older than this.")
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
    """Tell, in order, what the logs know of a mailing, a message, a client or a request.

    Reads FILES (- is the standard input; a pipe is read without being asked for), or else what the
    local stack has written: .local/logs/*.log.
    """
    story = Story(Question(mailing, message, client, request, since))
    for file in files or _default_files():
        if str(file) == "-":
            story.take(sys.stdin)
        else:
            with file.open(encoding="utf-8", errors="replace") as lines:
                story.take(lines)
    found = story.tell()
    if json or (json is None and not sys.stdout.isatty()):
        _write(as_json(found))
    else:
        _write(map(_for_people, found))
    if not found:
        raise click.ClickException(f"nothing of that in {story.read:,} lines")


def _write(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:  # `| head` has seen enough
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


def _for_people(line: Line) -> str:
    at = str(line["ts"]).replace("T", " ").rstrip("Z")
    event = click.style(f"{line['event']:<22}", fg=LEVELS.get(line["level"], "cyan"), bold=True)
    names = [name for name in FIRST if name in line]
    names += [name for name in line if name not in SAID and name not in FIRST]
    said = (_field(name, line[name]) for name in names if line[name] not in (None, False))
    service = click.style(f"{line.get('service', ''):<9}", dim=True)
    return f"{click.style(at, dim=True)}  {service}  {event}  {'  '.join(said)}"


def _field(name: str, value: Any) -> str:
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
    if value in GOOD or value.startswith("2"):
        return "green"
    return "red" if value in BAD or value[:1] in "45" else "yellow"
