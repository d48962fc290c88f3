"""A database connection that counts the statements it executes."""

from typing import Any

from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import PreparingConnection
from worker.runtime.database import Database


class CountingDatabase(Database):
    """Collects statements; BEGIN and COMMIT, and preparing a statement, are left out."""

    def __init__(self, url: str):
        super().__init__(url, "counting")
        self.statements: list[str] = []

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
