"""Bounds of work under way, and work that concurrent requests share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore

import pytest

from api.errors import RateLimited
from api.limits.concurrency import ConcurrencyLimit, SharedWork
from shared.domain.error_texts import error_text


@pytest.fixture
def limit() -> ConcurrencyLimit:
    return make_limit("exports", Semaphore(6))


def make_limit(name: str, shared: Semaphore) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        error_text(name), per_process=3, per_caller=2, retry_after=5, shared=shared
    )


def admit_all(limit: ConcurrencyLimit, *callers: str) -> list[Callable[[], None]]:
    return [limit.admit(caller) for caller in callers]


def test_one_caller_is_bounded_before_the_process_is(limit: ConcurrencyLimit) -> None:
    admit_all(limit, "a", "a")
    with pytest.raises(RateLimited, match="2 exports under way already") as error:
        limit.admit("a")
    assert error.value.seconds == 5
    limit.admit("b")
    with pytest.raises(RateLimited, match="too many exports"):
        limit.admit("c")


def test_a_place_is_freed_once(limit: ConcurrencyLimit) -> None:
    leave, *_ = admit_all(limit, "a", "a")
    leave()
    leave()
    limit.admit("a")
    with pytest.raises(RateLimited):
        limit.admit("a")


def test_kinds_of_work_share_places() -> None:
    places = Semaphore(4)
    exports, uploads = make_limit("exports", places), make_limit("uploads", places)
    leave, *_ = admit_all(exports, "a", "a", "b")
    admit_all(uploads, "a")
    with pytest.raises(RateLimited, match="too much other work") as error:
        uploads.admit("b")
    assert error.value.seconds == 5
    leave()
    uploads.admit("b")


def test_an_error_frees_the_place(limit: ConcurrencyLimit) -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="x"), limit.admitting("a"):
            raise ValueError("x")


def test_work_under_way_is_shared_and_later_work_is_done_again() -> None:
    shared: SharedWork[int] = SharedWork()
    started, go_on = Event(), Event()
    calls = []

    def work() -> int:
        calls.append(1)
        started.set()
        assert go_on.wait(5)
        return len(calls)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shared.run, "key", work)
        assert started.wait(5)
        others = [pool.submit(shared.run, "key", work) for _ in range(3)]
        another = shared.run("another key", lambda: 7)
        go_on.set()
        assert another == 7
        assert [each.result(5) for each in (first, *others)] == [1] * 4
    assert shared.run("key", work) == 2


def test_an_error_of_shared_work_reaches_all_and_is_not_kept() -> None:
    shared: SharedWork[int] = SharedWork()

    def fail() -> int:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        shared.run("key", fail)
    assert shared.run("key", lambda: 1) == 1
