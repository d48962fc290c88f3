"""Makes races happen on purpose: a database connection that stops where a test wants it to."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from tests.support.waiting import wait_for
from worker.runtime.database import Database


class PausingDatabase(Database):
    """Stops once, right before the `nth` statement that contains `before`, until told to go on."""

    def __init__(self, url: str, before: str, nth: int = 1):
        super().__init__(url, "pausing")
        self._before, self._left = before.strip(), nth
        self.reached, self.go_on = threading.Event(), threading.Event()

    def _open(self) -> Connection:
        connection = super()._open()
        pausing = self

        class PausingCursor(Cursor):
            def execute(self, query: Any, vars: Any = None) -> None:
                pausing.pass_by(query)
                super().execute(query, vars)

        connection.cursor_factory = PausingCursor
        return connection

    def pass_by(self, query: str) -> None:
        if self._before not in query:
            return
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.go_on.wait(20), "the test never let it go on"

    def wait_until_reached(self) -> None:
        assert self.reached.wait(10), f"it never came to: {self._before}"


@contextmanager
def threads() -> Iterator[Callable[..., "Future[Any]"]]:
    """Runs functions beside the test; what they raise is raised by their future's result()."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def wait_until_blocked(url: str, futures: "list[Future[Any]]") -> None:
    """Return when one of these waits for a lock, or all are done."""
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def blocked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return bool(cursor.fetchone()[0]) or all(future.done() for future in futures)

    try:
        wait_for(blocked, 10, "somebody waits for a lock", every=0.01)
    finally:
        connection.close()
