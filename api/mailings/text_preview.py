"""Render a mailing's text for its audience: examples, missing attributes, and segments in total."""

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

EXAMPLE_COUNT = 5
# Up to this many messages are rendered one by one; of more, an even sample of about this size.
SAMPLE_SIZE = 100_000

VALUES = placeholder_values("clients")
CLIENTS_BY_MISSING_ATTRIBUTE = f"""
SELECT required, count(*) FROM clients CROSS JOIN unnest(%(required)s::text[]) AS required
WHERE NOT attributes ? required AND {AUDIENCE_CONDITION} GROUP BY 1
"""  # noqa: S608 (constants, here and below)
CLIENTS_MISSING_ATTRIBUTES = f"""
SELECT count(*) FROM clients WHERE NOT attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION}
"""  # noqa: S608
EXAMPLES = f"""
SELECT id, {VALUES} FROM clients
WHERE attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION} ORDER BY id LIMIT %(examples)s
"""  # noqa: S608
OPTED_OUT_CLIENTS = f"""
SELECT count(*) FROM clients
WHERE {AUDIENCE_CONDITION} AND EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
"""  # noqa: S608
# Clients who have not opted out and whose window opens before the end.
REACHABLE = f"""
{AUDIENCE_CONDITION} AND timezone = ANY (%(zones)s::text[])
    AND NOT EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
"""
REACHABLE_CLIENTS = f"SELECT count(*) FROM clients WHERE {REACHABLE}"  # noqa: S608
SAMPLE = f"SELECT {VALUES} FROM clients WHERE id %% %(step)s = 0 AND {REACHABLE}"  # noqa: S608


class Example(NamedTuple):
    """The text that one client would receive."""

    client_id: int
    text: str


class AudienceTexts(NamedTuple):
    """A text rendered for its audience.

    Of the whole audience, `opted_out` clients are not messaged and `lacking` clients lack an
    attribute (which: `missing_attributes`). Of the clients whose window opens, `messages` are sent,
    in `segments` in total, and for `unfit` clients the text is empty or too long; these three are
    estimates from a sample unless `exact`.
    """

    opted_out: int
    lacking: int
    missing_attributes: list[tuple[str, int]]
    unfit: int
    examples: list[Example]
    longest: str
    messages: int
    segments: int
    exact: bool


@dataclass
class _Sample:
    """Totals of the messages that were rendered one by one."""

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


def render_for_audience(
    template: Template, audience: Mapping[str, object], zones: Iterable[str]
) -> AudienceTexts:
    """Render a text for the clients that the filter values `audience` match.

    `zones` are the time zones in which the window opens before the end.
    """
    values = {
        **audience,
        "zones": list(zones),
        "required": template.required,
        "examples": EXAMPLE_COUNT,
    }
    cursor = session_cursor()
    reachable = _count(cursor, REACHABLE_CLIENTS, values)
    if template.plain is not None:
        segments = reachable * measure_segments(template.plain).segments
        sample = _Sample(reachable, reachable, segments, 0, template.plain)
    else:
        sample = _render_sample(template, {**values, "step": -(-reachable // SAMPLE_SIZE) or 1})
    scale = reachable / sample.clients if sample.clients else 0.0
    missing_attributes: list[tuple[str, int]] = []
    if template.required:
        cursor.execute(CLIENTS_BY_MISSING_ATTRIBUTE, values)
        missing_attributes = sorted(cursor.fetchall(), key=lambda row: (-row[1], row[0]))
    return AudienceTexts(
        opted_out=_count(cursor, OPTED_OUT_CLIENTS, values),
        lacking=_count(cursor, CLIENTS_MISSING_ATTRIBUTES, values) if missing_attributes else 0,
        missing_attributes=missing_attributes,
        unfit=round(sample.unfit * scale),
        examples=_render_examples(cursor, template, values),
        longest=sample.longest,
        messages=round(sample.messages * scale),
        segments=round(sample.segments * scale),
        exact=sample.clients == reachable,
    )


def _count(cursor: Cursor, statement: str, values: Mapping[str, object]) -> int:
    cursor.execute(statement, values)
    (count,) = fetch_one_row(cursor)
    return int(count)


def _render_examples(
    cursor: Cursor, template: Template, values: Mapping[str, object]
) -> list[Example]:
    cursor.execute(EXAMPLES, values)
    examples = []
    for client_id, fields in cursor.fetchall():
        with suppress(RenderingError):
            examples.append(Example(client_id, template.render(fields)))
    return examples


def _render_sample(template: Template, values: Mapping[str, object]) -> _Sample:
    sample = _Sample()
    # A server-side cursor keeps memory small: there may be a hundred thousand clients.
    connection = cast(Any, db.session.connection().connection)
    with connection.cursor(name="text_preview") as cursor:
        cursor.itersize = 5_000
        cursor.execute(SAMPLE, values)
        for (fields,) in cursor:
            sample.add(template, fields)
    return sample
