"""Statements that PostgreSQL plans once per connection instead of at each execution.

For statements of every batch or of most requests: planning the claim of a batch takes longer than
the claim. The plan is generic (GENERIC_PLANS, a session's setting, ensures that), so only
statements whose best plan does not depend on their values belong here;
tests/integration/worker/test_query_plans.py checks each.
"""

import re
from collections.abc import Mapping
from typing import Any

from psycopg2.extensions import connection, cursor

GENERIC_PLANS = {"plan_cache_mode": "force_generic_plan"}

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


class PreparingConnection(connection):
    """A connection that records which statements it has prepared."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.prepared: set[str] = set()


class PreparedStatement:
    """A statement with `%(name)s` placeholders; its name is unique within a connection."""

    def __init__(self, name: str, statement: str) -> None:
        self.name = name
        values = list(dict.fromkeys(_PLACEHOLDER.findall(statement)))
        numbered = _PLACEHOLDER.sub(lambda found: f"${values.index(found[1]) + 1}", statement)
        self.prepare = f"PREPARE {name} AS {numbered}"
        self.execute = f"EXECUTE {name} ({', '.join(f'%({value})s' for value in values)})"

    def run(self, cursor: cursor, values: Mapping[str, object]) -> None:
        """Execute the statement on a PreparingConnection's cursor; prepare it the first time."""
        owner: PreparingConnection = cursor.connection  # type: ignore[assignment]
        if self.name not in owner.prepared:
            cursor.execute(self.prepare)
            owner.prepared.add(self.name)
        cursor.execute(self.execute, values)
