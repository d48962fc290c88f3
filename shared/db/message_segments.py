"""Measures the segments of messages whose text no worker has reported.

A dispatcher reports the segments of what it sends. What a dead worker may have sent is measured
here, from the text of the batch and the present values of the clients.
"""

from collections.abc import Collection, Mapping

from psycopg2.extensions import cursor as Cursor

from shared.domain.attributes import placeholder_values
from shared.domain.segments import count_segments
from shared.domain.templates import Placeholder, RenderingError, Template, compile_stored_template

# The text of an earlier attempt is the one that was sent.
READ_TEXTS = f"""
SELECT m.id, t.text, (
    SELECT text FROM attempts a
    WHERE a.mailing_id = %(mailing)s AND a.message_id = m.id ORDER BY at LIMIT 1
), {placeholder_values("c")}
FROM messages m
JOIN batches b ON b.mailing_id = %(mailing)s AND b.id = m.batch_id
JOIN mailings g ON g.id = %(mailing)s
JOIN mailing_texts t ON t.mailing_id = %(mailing)s
    AND t.version = coalesce(b.text_version, g.text_version)
LEFT JOIN clients c ON c.id = m.client_id
WHERE m.mailing_id = %(mailing)s AND m.id = ANY (%(ids)s::bigint[])
"""  # noqa: S608 (constants)


def measure_messages(
    cursor: Cursor, mailing_id: int, message_ids: Collection[int]
) -> dict[int, int]:
    """Return the segments of messages by id."""
    cursor.execute(READ_TEXTS, {"mailing": mailing_id, "ids": list(message_ids)})
    return {
        message_id: count_segments(
            sent or render_or_estimate(compile_stored_template(text), values)
        )
        for message_id, text, sent, values in cursor.fetchall()
    }


def render_or_estimate(template: Template, values: Mapping[str, str] | None) -> str:
    """Return the text for a client; values that are missing by now are left out."""
    try:
        return template.render(values or {})
    except RenderingError:
        parts = (
            (values or {}).get(part.name) or part.default or ""
            if isinstance(part, Placeholder)
            else part
            for part in template.parts
        )
        return "".join(parts)
