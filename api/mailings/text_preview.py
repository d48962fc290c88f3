"""Render a mailing's text for its audience: examples, missing attributes, and segments in total."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from psycopg2.extensions import cursor as Cursor

from api.db import db, session_cursor
from shared.db.audience import AUDIENCE_CONDITION
from shared.domain.attributes import placeholder_values
from shared.domain.segments import measure_segments
from shared.domain.templates import MissingAttribute, RenderingError, Template

EXAMPLE_COUNT = 5
# Up to this many messages are rendered one by one; of more, an even sample of about this size.
SAMPLE_SIZE = 100_000

VALUES = placeholder_values("clients")
# By the set of required attributes that they lack.
CLIENTS_LACKING = f"""
SELECT ARRAY(SELECT name FROM unnest(%(required)s::text[]) AS name WHERE NOT attributes ? name),
    count(*)
FROM clients WHERE NOT attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION} GROUP BY 1
"""  # noqa: S608 (constants, here and below)
EXAMPLES = f"""
SELECT id, {VALUES} FROM clients
WHERE attributes ?& %(required)s::text[] AND {AUDIENCE_CONDITION} ORDER BY id LIMIT %(examples)s
"""  # noqa: S608
OPTED_OUT_BY_ZONE = f"""
SELECT timezone, count(*) FROM clients
WHERE {AUDIENCE_CONDITION} AND EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
GROUP BY 1
"""  # noqa: S608
# Clients who have not opted out and whose window opens before the end.
SAMPLE = f"""
SELECT {VALUES} FROM clients
WHERE id %% %(step)s = 0 AND {AUDIENCE_CONDITION} AND timezone = ANY (%(zones)s::text[])
    AND NOT EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)
"""  # noqa: S608


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
    template: Template, audience: Mapping[str, object], zones: Mapping[str, int]
) -> AudienceTexts:
    """Render a text for the clients that the filter values `audience` match.

    `zones` has the number of clients in each time zone whose window opens before the end.
    """
    values = {
        **audience,
        "zones": list(zones),
        "required": template.required,
        "examples": EXAMPLE_COUNT,
    }
    cursor = session_cursor()
    cursor.execute(OPTED_OUT_BY_ZONE, values)
    opted_out = Counter(dict(cursor.fetchall()))
    reachable = sum(clients - opted_out[zone] for zone, clients in zones.items())
    if template.plain is not None:
        segments = reachable * measure_segments(template.plain).segments
        sample = _Sample(reachable, reachable, segments, 0, template.plain)
    else:
        sample = _render_sample(template, {**values, "step": -(-reachable // SAMPLE_SIZE) or 1})
    scale = reachable / sample.clients if sample.clients else 0.0
    lacking = 0
    missing_attributes: Counter[str] = Counter()
    if template.required:
        cursor.execute(CLIENTS_LACKING, values)
        for names, clients in cursor.fetchall():
            lacking += clients
            missing_attributes.update(dict.fromkeys(names, clients))
    return AudienceTexts(
        opted_out=opted_out.total(),
        lacking=lacking,
        missing_attributes=sorted(missing_attributes.items(), key=lambda item: (-item[1], item[0])),
        unfit=round(sample.unfit * scale),
        examples=_render_examples(cursor, template, values),
        longest=sample.longest,
        messages=round(sample.messages * scale),
        segments=round(sample.segments * scale),
        exact=sample.clients == reachable,
    )


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
