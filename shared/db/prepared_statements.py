"""Statements that PostgreSQL plans once per connection instead of each time they are run.

For what is asked for every batch or in most requests: planning the claim of a batch takes longer
than the claim itself. The plan is a generic one (GENERIC, a connection's option, sees to that), so
only statements whose best plan is the same whatever their values are belong here;
tests/integration/worker/test_query_plans.py looks at each.
"""

import re
from collections.abc import Mapping
from typing import Any

from psycopg2.extensions import connection, cursor

GENERIC_PLAN_OPTION = "-c plan_cache_mode=force_generic_plan"

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


class PreparingConnection(connection):
    """A connection that remembers which statements it has prepared."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.prepared: set[str] = set()


class PreparedStatement:
    """A statement with `%(name)s` placeholders; `name` is unique among those of a connection."""

    def __init__(self, name: str, statement: str) -> None:
        self.name = name
        values = list(dict.fromkeys(_PLACEHOLDER.findall(statement)))
        numbered = _PLACEHOLDER.sub(lambda found: f"${values.index(found[1]) + 1}", statement)
        self.prepare = f"PREPARE {name} AS {numbered}"
        self.execute = f"EXECUTE {name} ({', '.join(f'%({value})s' for value in values)})"

    def run(self, cursor: cursor, values: Mapping[str, object]) -> None:
        """Execute it on a cursor of a PreparingConnection, preparing it first if need be."""
        owner: PreparingConnection = cursor.connection  # type: ignore[assignment]
        if self.name not in owner.prepared:
            cursor.execute(self.prepare)
            owner.prepared.add(self.name)
        cursor.execute(self.execute, values)
