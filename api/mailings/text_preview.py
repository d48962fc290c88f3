"""What a mailing's text becomes for its audience: who lacks what, examples, and segments in all."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from psycopg2.extensions import cursor as Cursor

from api.db import db, session_cursor
from shared.db.audience import AUDIENCE_CONDITION
from shared.db.rows import fetch_one_row
from shared.domain.attributes import placeholder_values
from shared.domain.segments import measure_segments
from shared.domain.templates import MissingAttribute, RenderingError, Template

EXAMPLES = 5
# Up to so many messages are rendered one by one; of more, an even sample of about that many.
RENDERED = 100_000

VALUES = placeholder_values("clients")
LACKING = f"""
SELECT lacked, count(*) FROM clients CROSS JOIN unnest(%(required)s::text[]) AS lacked
WHERE NOT attributes ? lacked AND {AUDIENCE_CONDITION} GROUP BY 1
"""  # noqa: S608 (constants, here and below)
LACKING_ANY = f"""
SELECT count(*) FROM clients WHERE NOT attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION}
"""  # noqa: S608
SHOWN = f"""
SELECT id, {VALUES} FROM clients
WHERE attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION} ORDER BY id LIMIT %(shown)s
"""  # noqa: S608
OPTED_OUT = f"""
SELECT count(*) FROM clients
WHERE {AUDIENCE_CONDITION} AND EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
"""  # noqa: S608
# Those who can be written to.
WRITTEN_TO = f"""
{AUDIENCE_CONDITION} AND timezone = ANY (%(zones)s::text[])
    AND NOT EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
"""
REACHED = f"SELECT count(*) FROM clients WHERE {WRITTEN_TO}"  # noqa: S608
EVERY = f"SELECT {VALUES} FROM clients WHERE id %% %(step)s = 0 AND {WRITTEN_TO}"  # noqa: S608


class Example(NamedTuple):
    """What one client would get."""

    client_id: int
    text: str


class Renderings(NamedTuple):
    """A text as its audience would get it.

    Of the audience, `opted_out` are not written to and `lacking` lack an attribute (which ones:
    `missing`). Of those whose window opens, `messages` are sent, in `segments`, and for `unfit` the
    values make the text empty or too long; these are estimated from a sample unless `exact`.
    """

    opted_out: int
    lacking: int
    missing: list[tuple[str, int]]
    unfit: int
    examples: list[Example]
    longest: str
    messages: int
    segments: int
    exact: bool


@dataclass
class _Drawn:
    """What was rendered one by one."""

    clients: int = 0
    messages: int = 0
    segments: int = 0
    unfit: int = 0
    longest: str = ""

    def add(self, template: Template, values: Mapping[str, str]) -> None:
        self.clients += 1
        try:
            text = template.render(values)
        except MissingAttribute:
            return
        except RenderingError:
            self.unfit += 1
            return
        self.messages += 1
        self.segments += measure_segments(text).segments
        if len(text) > len(self.longest):
            self.longest = text


def render_for(
    template: Template, chosen: Mapping[str, object], zones: Iterable[str]
) -> Renderings:
    """Render for whoever `chosen` (its values) finds; `zones` are those that open."""
    values = {
        **chosen,
        "zones": list(zones),
        "required": template.required,
        "shown": EXAMPLES,
    }
    reader = session_cursor()
    opted_out = _count(reader, OPTED_OUT, values)
    reached = _count(reader, REACHED, values)
    lacking, missing = _missing(reader, template, values)
    examples = _examples(reader, template, values)
    if template.plain is not None:
        each = measure_segments(template.plain).segments
        drawn = _Drawn(reached, reached, reached * each, 0, template.plain)
    else:
        drawn = _draw(template, {**values, "step": -(-reached // RENDERED) or 1})
    scale = reached / drawn.clients if drawn.clients else 0.0
    return Renderings(
        opted_out,
        lacking,
        missing,
        round(drawn.unfit * scale),
        examples,
        drawn.longest,
        round(drawn.messages * scale),
        round(drawn.segments * scale),
        drawn.clients == reached,
    )


def _count(reader: Cursor, statement: str, values: Mapping[str, object]) -> int:
    reader.execute(statement, values)
    (count,) = fetch_one_row(reader)
    return int(count)


def _missing(
    reader: Cursor, template: Template, values: Mapping[str, object]
) -> tuple[int, list[tuple[str, int]]]:
    if not template.required:
        return 0, []
    reader.execute(LACKING, values)
    missing = sorted(reader.fetchall(), key=lambda found: (-found[1], found[0]))
    return (_count(reader, LACKING_ANY, values) if missing else 0), missing


def _examples(reader: Cursor, template: Template, values: Mapping[str, object]) -> list[Example]:
    reader.execute(SHOWN, values)
    examples = []
    for client_id, fields in reader.fetchall():
        with suppress(RenderingError):
            examples.append(Example(client_id, template.render(fields)))
    return examples


def _draw(template: Template, values: Mapping[str, object]) -> _Drawn:
    drawn = _Drawn()
    # A cursor of the server's: a hundred thousand clients need not be here at once.
    connection = cast(Any, db.session.connection().connection)
    with connection.cursor(name="renderings") as rows:
        rows.itersize = 5_000
        rows.execute(EVERY, values)
        for (fields,) in rows:
            drawn.add(template, fields)
    return drawn
