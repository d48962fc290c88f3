"""A database connection that counts its statements and transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import PreparingConnection
from worker.runtime.database import Database


class CountingDatabase(Database):
    """Collects statements; BEGIN and COMMIT, and preparing a statement, are left out."""

    def __init__(self, url: str):
        super().__init__(url, "counting")
        self.statements: list[str] = []
        self.transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        self.transactions += 1
        with super().transaction() as cursor:
            yield cursor

    def _open(self) -> PreparingConnection:
        connection = super()._open()
        statements = self.statements

        class CountingCursor(Cursor):
            def execute(self, query: Any, vars: Any = None) -> None:
                if not query.startswith("PREPARE"):
                    statements.append(query)
                super().execute(query, vars)

        connection.cursor_factory = CountingCursor
        return connection
