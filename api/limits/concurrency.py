"""Bounds of expensive work under way in one process, and work that concurrent requests share.

Each such request occupies one of the process's threads. Of all kinds together MAX_EXPENSIVE are
under way at most, which leaves some of the threads (`threads` in api/gunicorn_conf.py) to all other
requests.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock, Semaphore
from typing import Generic, TypeVar

from api.errors import RateLimited
from shared.domain.error_texts import ErrorText, error_text

T = TypeVar("T")

MAX_EXPENSIVE = 6
EXPENSIVE = Semaphore(MAX_EXPENSIVE)


class ConcurrencyLimit:
    """Admits up to `per_process` pieces of work at once, and `per_caller` of one caller.

    `shared` has the places that it shares with other kinds of work.
    """

    def __init__(
        self,
        name: ErrorText,
        per_process: int,
        per_caller: int,
        retry_after: int,
        shared: Semaphore = EXPENSIVE,
    ) -> None:
        self.name, self.per_process, self.per_caller = name, per_process, per_caller
        self._retry_after = retry_after
        self._shared = shared
        self._lock = Lock()
        self._callers: Counter[str] = Counter()

    def admit(self, caller: str) -> Callable[[], None]:
        """Count a piece of work; return the function that ends it. Raise RateLimited.

        Calling that function again does nothing.
        """
        with self._lock:
            if self._callers[caller] >= self.per_caller:
                self._refuse(
                    error_text(
                        "You have %(count)s %(work)s under way already.",
                        count=self.per_caller,
                        work=self.name,
                    )
                )
            if self._callers.total() >= self.per_process:
                self._refuse(error_text("There are too many %(work)s under way.", work=self.name))
            if not self._shared.acquire(blocking=False):
                self._refuse(error_text("There is too much other work under way."))
            self._callers[caller] += 1
        open_places = [caller]

        def leave() -> None:
            with self._lock:
                if open_places:
                    open_places.clear()
                    self._shared.release()
                    self._callers[caller] -= 1
                    if not self._callers[caller]:
                        del self._callers[caller]

        return leave

    @contextmanager
    def admitting(self, caller: str) -> Iterator[None]:
        """Count a piece of work for the duration of a block. Raise RateLimited."""
        leave = self.admit(caller)
        try:
            yield
        finally:
            leave()

    def _refuse(self, reason: ErrorText) -> None:
        detail = error_text(
            "%(reason)s Try again in %(seconds)s s.", reason=reason, seconds=self._retry_after
        )
        raise RateLimited(detail, seconds=self._retry_after, code="too_much_under_way")


class SharedWork(Generic[T]):
    """Work that is done once for all who request it while it is under way."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way: dict[Hashable, Future[T]] = {}

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return the result of `work`, or of the same work that is under way; its errors too."""
        with self._lock:
            found = self._under_way.get(key)
            if found is None:
                own = self._under_way[key] = Future[T]()
        if found is not None:
            return found.result()
        try:
            own.set_result(work())
        except BaseException as error:
            own.set_exception(error)
        finally:
            with self._lock:
                del self._under_way[key]
        return own.result()
