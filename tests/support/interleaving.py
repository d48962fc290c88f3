"""Provoke races: a database connection that pauses before a chosen statement."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import PreparingConnection
from shared.db.rows import fetch_one_row
from tests.support.waiting import wait_for
from worker.runtime.database import Database


class PausingDatabase(Database):
    """Pauses once, before the `nth` statement that contains `before`, until `resume` is set."""

    def __init__(self, url: str, before: str, nth: int = 1):
        super().__init__(url, "pausing")
        self._before, self._left = before.strip(), nth
        self.reached, self.resume = threading.Event(), threading.Event()

    def _open(self) -> PreparingConnection:
        connection = super()._open()
        pausing = self

        class PausingCursor(Cursor):
            def execute(self, query: Any, vars: Any = None) -> None:
                pausing.pause_before(query)
                super().execute(query, vars)

        connection.cursor_factory = PausingCursor
        return connection

    def pause_before(self, query: str) -> None:
        if self._before not in query:
            return
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.resume.wait(20), "the test never resumed the paused statement"

    def wait_until_reached(self) -> None:
        assert self.reached.wait(10), f"this statement was never executed: {self._before}"


@contextmanager
def threads() -> Iterator[Callable[..., "Future[Any]"]]:
    """Yield a function that runs functions on threads; result() raises what they raise."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def wait_until_blocked(url: str, futures: "list[Future[Any]]") -> None:
    """Return when a connection waits for a lock, or all futures are done."""
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def blocked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return bool(fetch_one_row(cursor)[0]) or all(future.done() for future in futures)

    try:
        wait_for(blocked, 10, "a connection waits for a lock", every=0.01)
    finally:
        connection.close()
