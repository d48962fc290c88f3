"""Render a mailing's text for its audience: examples, missing attributes, and segments in total."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from psycopg2.extensions import cursor as Cursor

from api.db import db, session_cursor
from shared.domain.attributes import placeholder_values
from shared.domain.segments import measure_segments
from shared.domain.templates import MissingAttribute, RenderingError, Template

EXAMPLE_COUNT = 5
# Examples are clients whose ids lie within so many.
EXAMPLE_RANGE = 200_000
# Up to this many messages are rendered one by one; of more, an even sample of about this size.
SAMPLE_SIZE = 100_000

VALUES = placeholder_values("clients")
# `audience` is a condition on clients: see AudienceQuery. REACHABLE: those who have not opted out
# and whose window opens before the end.
OPTED_OUT = "EXISTS (SELECT FROM opt_outs WHERE opt_outs.phone = clients.phone)"
REACHABLE = f"timezone = ANY (%(zones)s::text[]) AND NOT {OPTED_OUT}"
# By the set of required attributes that they lack: all of them, and those who are reachable.
CLIENTS_LACKING = f"""
SELECT ARRAY(SELECT name FROM unnest(%(required)s::text[]) AS name WHERE NOT attributes ? name),
    count(*), count(*) FILTER (WHERE {REACHABLE})
FROM clients WHERE NOT attributes ?& %(required)s::text[] AND {{audience}} GROUP BY 1
"""  # noqa: S608 (constants, here and below)
HAS_REQUIRED = "(%(required)s::text[] = '{{}}' OR attributes ?& %(required)s::text[])"
# Beginning at the first client that is one, since each client before costs a look-up in a mailing
# that is excluded; and not many further ones, among which few may have been left.
EXAMPLES = f"""
SELECT id, {VALUES} FROM clients
WHERE id >= %(first_id)s AND id < %(first_id)s + {EXAMPLE_RANGE} AND {HAS_REQUIRED}
    AND {{audience}}
ORDER BY id LIMIT %(examples)s
"""  # noqa: S608
OPTED_OUT_BY_ZONE = f"""
SELECT timezone, count(*) FROM clients WHERE {{audience}} AND {OPTED_OUT} GROUP BY 1
"""  # noqa: S608
SAMPLE = f"""
SELECT {VALUES} FROM clients WHERE id %% %(step)s = 0 AND {{audience}} AND {REACHABLE}
"""  # noqa: S608


class AudienceQuery(NamedTuple):
    """The clients that a preview is about: a condition on `clients`, with its parameters."""

    condition: str
    parameters: Mapping[str, object]

    def select(self, statement: str) -> str:
        """Return a statement for these clients; it names them as `{audience}`."""
        return statement.format(audience=self.condition)


class Example(NamedTuple):
    """The text that one client would receive."""

    client_id: int
    text: str


class AudienceTexts(NamedTuple):
    """A text rendered for its audience.

    Of the whole audience, `opted_out_by_zone` clients are not messaged and `lacking` clients lack
    an attribute (which: `missing_attributes`). Of the clients who have not opted out and whose
    window opens, `lacking_reachable` lack an attribute, for `unfit` the text is empty or too long,
    and the others are sent `messages`, in `segments` in total; `unfit` and `segments` are estimates
    from a sample unless `exact`.
    """

    opted_out_by_zone: Mapping[str, int]
    lacking: int
    lacking_reachable: int
    missing_attributes: list[tuple[str, int]]
    unfit: int
    examples: list[Example]
    longest: str
    messages: int
    segments: int
    exact: bool

    @property
    def opted_out(self) -> int:
        return sum(self.opted_out_by_zone.values())


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
    template: Template, audience: AudienceQuery, zones: Mapping[str, int], first_id: int | None
) -> AudienceTexts:
    """Render a text for the clients of `audience`.

    `zones` has the number of clients in each time zone whose window opens before the end, and
    `first_id` is the first client that has what the text requires.
    """
    values = {
        **audience.parameters,
        "zones": list(zones),
        "required": template.required,
        "examples": EXAMPLE_COUNT,
        "first_id": first_id,
    }
    cursor = session_cursor()
    cursor.execute(audience.select(OPTED_OUT_BY_ZONE), values)
    opted_out = Counter(dict(cursor.fetchall()))
    reachable = sum(clients - opted_out[zone] for zone, clients in zones.items())
    if template.plain is not None:
        segments = reachable * measure_segments(template.plain).segments
        sample = _Sample(reachable, reachable, segments, 0, template.plain)
    else:
        step = -(-reachable // SAMPLE_SIZE) or 1
        sample = _render_sample(template, audience, {**values, "step": step})
    lacking = lacking_reachable = 0
    missing_attributes: Counter[str] = Counter()
    if template.required:
        cursor.execute(audience.select(CLIENTS_LACKING), values)
        for names, clients, without in cursor.fetchall():
            lacking += clients
            lacking_reachable += without
            missing_attributes.update(dict.fromkeys(names, clients))
    # What is counted exactly bounds what the sample estimates.
    rendered = reachable - lacking_reachable
    fit = sample.messages + sample.unfit
    scale = rendered / fit if fit else 0.0
    unfit = round(sample.unfit * scale)
    return AudienceTexts(
        opted_out_by_zone=opted_out,
        lacking=lacking,
        lacking_reachable=lacking_reachable,
        missing_attributes=sorted(missing_attributes.items(), key=lambda item: (-item[1], item[0])),
        unfit=unfit,
        examples=[] if first_id is None else _render_examples(cursor, template, audience, values),
        longest=sample.longest,
        messages=rendered - unfit,
        segments=round(sample.segments * scale),
        exact=sample.clients == reachable,
    )


def _render_examples(
    cursor: Cursor, template: Template, audience: AudienceQuery, values: Mapping[str, object]
) -> list[Example]:
    cursor.execute(audience.select(EXAMPLES), values)
    examples = []
    for client_id, fields in cursor.fetchall():
        with suppress(RenderingError):
            examples.append(Example(client_id, template.render(fields)))
    return examples


def _render_sample(
    template: Template, audience: AudienceQuery, values: Mapping[str, object]
) -> _Sample:
    sample = _Sample()
    # A server-side cursor keeps memory small: there may be a hundred thousand clients.
    connection = cast(Any, db.session.connection().connection)
    with connection.cursor(name="text_preview") as cursor:
        cursor.itersize = 5_000
        cursor.execute(audience.select(SAMPLE), values)
        for (fields,) in cursor:
            sample.add(template, fields)
    return sample
