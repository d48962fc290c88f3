"""A thread that does the sending loop's database work, so that the loop never waits for it.

Requests are done one after another, on one connection; their answers are fetched by the loop and
handed to callbacks there, so that no state is shared between the threads.
"""

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import structlog

from worker.runtime.database import TRANSIENT_ERRORS, Database, DatabaseError

log = structlog.get_logger()

Callback = Callable[[Any, DatabaseError | None], None]


class Clerk:
    """Runs functions of a database in order. `wake` is called, in its thread, after each."""

    def __init__(self, db: Database, wake: Callable[[], None]):
        self._db = db
        self._wake = wake
        self._requests: SimpleQueue[tuple[Callback, Callable[..., Any], tuple[Any, ...]] | None]
        self._requests = SimpleQueue()
        self._answers: deque[tuple[Callback, Any, BaseException | None]] = deque()
        # Its log lines carry the same ids as the loop's.
        work = contextvars.copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="clerk", daemon=True)
        self._thread.start()
        self.pending = 0

    def ask(self, callback: Callback, function: Callable[..., Any], *args: Any) -> None:
        """Have `function(db, *args)` run; `callback(result, error)` gets what it returns."""
        self.pending += 1
        self._requests.put((callback, function, args))

    def deliver(self) -> None:
        """Call the callbacks of what is done. Anything but a DatabaseError is raised here."""
        while self._answers:
            callback, result, error = self._answers.popleft()
            self.pending -= 1
            if error is not None and not isinstance(error, DatabaseError):
                raise error
            callback(result, error)

    def close(self) -> None:
        """End the thread after what was asked so far."""
        self._requests.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            callback, function, args = request
            try:
                self._answers.append((callback, function(self._db, *args), None))
            except BaseException as error:  # handed to the loop, which decides
                self._answers.append((callback, None, error))
            self._wake()
        self._db.close()


def complain(what: str, error: DatabaseError | None) -> None:
    """Log that work on the database failed; it will be tried again."""
    if error is None or isinstance(error, TRANSIENT_ERRORS):
        log.warning("database.unavailable", what=what, error=str(error).strip())
    else:
        log.error("database.refused", what=what, exc_info=error)


def ignore(_result: Any, error: DatabaseError | None) -> None:
    """A callback for what the sweep repeats if it failed."""
    if error is not None:
        complain("follow-up", error)
