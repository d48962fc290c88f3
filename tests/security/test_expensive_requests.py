"""Expensive requests without a proxy: each kind is bounded, and all together are."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import TOKEN, mailing_body
from tests.support.api_server import Server
from tests.support.waiting import wait_for

PREVIEWS = 40
UPLOADS = 12
SEARCHES = 24
FILE = "phone,timezone\n" + "".join(f"7{9_480_000_000 + n},Europe/Moscow\n" for n in range(120_000))
CLIENTS = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79000000000 + n, 900, 'many', 'Europe/Moscow', jsonb_build_object('name', 'Client ' || n)
FROM generate_series(1, 200000) n
"""


@pytest.fixture(scope="module", autouse=True)
def _many_clients(database: Cursor) -> None:
    database.execute(CLIENTS)
    database.execute("ANALYZE clients")


@contextmanager
def asking(
    server: Server, method: str, path: str, several: Sequence[dict[str, Any]]
) -> Iterator[list[requests.Response]]:
    """Send a request with each of the arguments at once; at the end the list is complete."""
    answers: list[requests.Response] = []

    def send_request(arguments: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"} | arguments.pop("headers", {})
        url = f"{server.url}/api/v1{path}"
        answers.append(requests.request(method, url, headers=headers, timeout=120, **arguments))

    threads = [threading.Thread(target=send_request, args=(dict(each),)) for each in several]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        for thread in threads:
            thread.join()


def measure_health(server: Server, answers: list[Any], expected: int) -> float:
    """Return the longest time of /healthz until all answers have come."""
    longest = 0.0
    while len(answers) < expected:
        started = time.monotonic()
        assert requests.get(f"{server.url}/healthz", timeout=120).ok
        longest = max(longest, time.monotonic() - started)
        time.sleep(0.05)
    return longest


def test_the_api_stays_quick_beside_many_previews(server: Server) -> None:
    texts = [f"Hello {{name}}, this is offer {n}" for n in range(PREVIEWS)]
    bodies = [{"json": mailing_body() | {"text": text}} for text in texts]
    with asking(server, "POST", "/mailings/preview", bodies) as answers:
        longest = measure_health(server, answers, PREVIEWS)
    statuses = Counter(each.status_code for each in answers)
    assert statuses.keys() == {200, 429}
    assert statuses[200] >= 2
    refused = next(each for each in answers if each.status_code == 429)
    assert refused.headers["Retry-After"] == "2"
    assert longest < 1


@pytest.mark.parametrize("path", ["/clients/import/check", "/opt-outs/import"])
def test_the_api_stays_quick_beside_many_uploads(server: Server, path: str) -> None:
    upload = {"data": FILE.encode(), "headers": {"Content-Type": "text/csv"}}
    with asking(server, "POST", path, [upload] * UPLOADS) as answers:
        longest = measure_health(server, answers, UPLOADS)
    statuses = Counter(each.status_code for each in answers)
    assert statuses.keys() == {200, 429}
    refused = next(each for each in answers if each.status_code == 429)
    assert refused.headers["Retry-After"] == "5"
    assert "2 uploads under way" in refused.json()["detail"]
    assert longest < 3


def test_searches_for_a_part_of_a_phone_leave_threads_to_others(server: Server) -> None:
    searches = [{"params": {"search": f"{n:03}9"}} for n in range(SEARCHES)]
    with asking(server, "GET", "/clients", searches) as answers:
        longest = measure_health(server, answers, SEARCHES)
    assert {each.status_code for each in answers} <= {200, 429}
    assert longest < 3


def export(server: Server) -> requests.Response:
    """Begin an export whose reader does not continue."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return requests.get(
        f"{server.url}/api/v1/clients.csv", headers=headers, stream=True, timeout=30
    )


def refused_without_a_query(server: Server, database: Cursor) -> bool:
    """Return whether a further export is refused while nothing can read clients."""
    database.execute("BEGIN")
    try:
        database.execute("LOCK TABLE clients")
        return export(server).status_code == 429  # 503 after waiting for the lock
    finally:
        database.execute("ROLLBACK")


def test_exports_that_are_not_read_leave_threads_to_others(
    server: Server, database: Cursor
) -> None:
    exports = [export(server) for _ in range(8)]
    try:
        assert [each.status_code for each in exports] == [200] * 2 + [429] * 6
        assert {each.headers.get("Retry-After") for each in exports[2:]} == {"5"}
        assert "2 exports under way" in exports[-1].json()["detail"]
        assert refused_without_a_query(server, database)
        for _ in range(10):
            started = time.monotonic()
            assert server.http.get(f"{server.url}/healthz", timeout=5).ok
            assert server.http.get(f"{server.url}/api/v1/clients?limit=1", timeout=5).ok
            assert time.monotonic() - started < 2
    finally:
        for each in exports:
            each.close()

    def is_admitted() -> bool:
        with export(server) as answer:
            return answer.status_code == 200

    wait_for(is_admitted, 10, "the end of the exports whose connections are closed")


def test_exports_that_break_cost_only_their_connections(server: Server, database: Cursor) -> None:
    for _ in range(10):
        with export(server) as broken:
            assert broken.status_code == 200
            database.execute("ALTER TABLE clients RENAME TO clients_elsewhere")
            try:
                with pytest.raises(requests.exceptions.ChunkedEncodingError):
                    assert broken.content
            finally:
                database.execute("ALTER TABLE clients_elsewhere RENAME TO clients")
    assert server.http.get(f"{server.url}/api/v1/clients?limit=1", timeout=5).ok
