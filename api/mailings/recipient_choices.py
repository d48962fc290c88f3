"""What a mailing's recipients can be chosen by, with the clients of each: tags, zones, operators.

Counting reads every client, so the counts are kept: for a hundred times as long as counting took,
within bounds. A directory that takes too long to count offers no lists; typing remains.
"""

import threading
import time
from typing import NamedTuple

from flask import current_app
from sqlalchemy import text

from api.db import db, fetch_all, limited_search
from api.errors import InvalidFields

MAX_CHOICES = 200
KEPT_FACTOR = 100
MIN_KEPT_SECONDS = 1.0
MAX_KEPT_SECONDS = 600.0
EXTENSION = "recipient_choices"

COUNTED = text("""
WITH counted AS MATERIALIZED (
    SELECT operator_code, timezone, tag, count(*) AS n FROM clients
    WHERE deleted_at IS NULL GROUP BY 1, 2, 3
), shares AS (
    SELECT 'operator_codes' AS field, operator_code AS value, sum(n)::bigint AS n
    FROM counted GROUP BY 2
    UNION ALL SELECT 'timezones', timezone, sum(n)::bigint FROM counted GROUP BY 2
    UNION ALL SELECT 'tags', tag, sum(n)::bigint FROM counted WHERE tag <> '' GROUP BY 2
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY field ORDER BY n DESC, value) AS place FROM shares
)
SELECT field, value, n AS clients FROM ranked WHERE place <= :most ORDER BY field, place
""")
# The newest clients show which values an attribute has; all of them would take seconds to read.
VALUES = text("""
SELECT attributes->>:name AS value, count(*) AS clients FROM (
    SELECT attributes FROM clients WHERE deleted_at IS NULL ORDER BY id DESC LIMIT 5000
) newest WHERE attributes ? :name GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50
""")


class Choice(NamedTuple):
    """A value that clients have, and how many have it."""

    value: str
    clients: int


Choices = dict[str, list[Choice]]


class ChoiceCache:
    """The counts of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept_until = 0.0
        self._choices: Choices = {}

    def get(self) -> Choices:
        """Return the counts; one thread counts again while the others wait."""
        with self._lock:
            if time.monotonic() >= self._kept_until:
                started = time.monotonic()
                self._choices = _count_choices(self._choices)
                took = time.monotonic() - started
                kept = min(max(KEPT_FACTOR * took, MIN_KEPT_SECONDS), MAX_KEPT_SECONDS)
                self._kept_until = time.monotonic() + kept
            return self._choices


def list_choices() -> Choices:
    """Return the most frequent operator codes, time zones and tags, by the field of a filter."""
    cache: ChoiceCache = current_app.extensions.setdefault(EXTENSION, ChoiceCache())
    return cache.get()


def list_attribute_values(name: str) -> list[Choice]:
    """Return the most frequent values of an attribute among the newest clients."""
    return [Choice(**row) for row in fetch_all(VALUES, name=name)]


def _count_choices(previous: Choices) -> Choices:
    try:
        with limited_search("filter"):
            rows = db.session.execute(COUNTED, {"most": MAX_CHOICES}).all()
    except InvalidFields:
        return previous
    choices: Choices = {}
    for field, value, clients in rows:
        choices.setdefault(field, []).append(Choice(value, clients))
    return choices
