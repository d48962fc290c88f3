"""A thread that does the sending loop's database work, so that the loop never waits for it.

Calls run one after another on one connection. The loop fetches their results and passes them to
callbacks in its own thread, so that the threads share no state.
"""

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import structlog

from shared.db.connections import TRANSIENT_ERRORS
from worker.runtime.database import Database

log = structlog.get_logger()

CLOSE_TIMEOUT_SECONDS = 10

Callback = Callable[[Any, Exception | None], None]


class DatabaseThread:
    """Calls functions with a database in order. `wake` is called in this thread after each."""

    def __init__(self, db: Database, wake: Callable[[], None]):
        self._db = db
        self._wake = wake
        self._calls: SimpleQueue[tuple[Callback, Callable[..., Any], tuple[Any, ...]] | None]
        self._calls = SimpleQueue()
        self._results: deque[tuple[Callback, Any, BaseException | None]] = deque()
        # The thread's log lines carry the same ids as the loop's.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._run_calls,), name="database", daemon=True
        )
        self._thread.start()
        self.pending = 0

    def submit(self, callback: Callback, function: Callable[..., Any], *args: Any) -> None:
        """Call `function(db, *args)` here; `deliver_results` calls `callback(result, error)`."""
        self.pending += 1
        self._calls.put((callback, function, args))

    def deliver_results(self) -> None:
        """Call the callbacks of finished calls.

        A call that fails, for whatever reason, concerns one batch or mailing. Raises only what is
        no Exception.
        """
        while self._results:
            callback, result, error = self._results.popleft()
            self.pending -= 1
            if error is not None and not isinstance(error, Exception):
                raise error
            callback(result, error)

    def close(self) -> None:
        """Stop after the calls submitted so far."""
        self._calls.put(None)
        self._thread.join(timeout=CLOSE_TIMEOUT_SECONDS)

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            callback, function, args = call
            try:
                self._results.append((callback, function(self._db, *args), None))
            except BaseException as error:  # passed to the loop, which decides
                self._results.append((callback, None, error))
            self._wake()
        self._db.close()


def log_database_error(what: str, error: Exception | None) -> None:
    """Log that database work failed; it will be repeated."""
    if error is None or isinstance(error, TRANSIENT_ERRORS):
        log.warning("database.unavailable", what=what, error=str(error).strip())
    else:
        log.error("database.refused", what=what, exc_info=error)


def log_if_failed(_result: Any, error: Exception | None) -> None:
    """Log a failure of work that the sweep repeats; a callback for `submit`."""
    if error is not None:
        log_database_error("follow-up", error)
