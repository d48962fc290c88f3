"""The memory of the API stays flat over many requests, with exports and refusals among them.

`SECURITY_LONG=1` makes it 200,000 requests, which takes minutes.
"""

import itertools
import os

import pytest
from psycopg2.extensions import cursor as Cursor

from dev.bench import load
from dev.bench.environment import list_children, resident_mb
from tests.integration.conftest import TOKEN
from tests.support.api_server import Server

LONG = os.environ.get("SECURITY_LONG") == "1"
ROUNDS = 0 if LONG else 16
REQUESTS = 200_000 if LONG else 0
ROUND_SECONDS = 5.0 if LONG else 0.25
# From the second quarter of the requests to the last one; before, each thread gets its memory.
MAX_GROWTH_MB = 8 if LONG else 70
CLIENTS = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79200000000 + n, 920, 'fat', 'Europe/Moscow', jsonb_build_object('note', repeat('x', 500))
FROM generate_series(1, 20000) n
"""


@pytest.mark.timeout(3600 if LONG else 120)
def test_memory_stays_flat(server: Server, database: Cursor) -> None:
    database.execute(CLIENTS)
    _, port = server.address.split(":")
    requests = itertools.cycle(
        [
            load.build_request("GET", "/api/v1/clients/1", TOKEN),
            load.build_request("GET", "/api/v1/clients?limit=50", TOKEN),
            load.build_request("GET", "/healthz", TOKEN),
        ]
    )
    assert server.process.popen
    (worker,) = list_children(server.process.popen.pid)
    done, exports, memory = 0, 0, []
    while done < REQUESTS or exports < ROUNDS:
        load_result = load.run_load(int(port), lambda: next(requests), ROUND_SECONDS)
        done += len(load_result.times)
        for n in range(20):
            assert server.http.get(f"{server.url}/api/v1/clients/{10**9 + n}").status_code == 404
            refused = server.http.post(f"{server.url}/api/v1/mailings", json={f"field{n}": n})
            assert refused.status_code == 422
        done += 40
        answer = server.http.get(f"{server.url}/api/v1/clients.csv", timeout=60)
        assert answer.text.count(",fat,") == 20_000
        exports += 1
        memory.append(round(resident_mb(worker), 1))
    print(f"{done:,} requests, {exports} exports; MB after each export: {memory}")
    # The highest: each thread keeps what its exports needed, and gives it back at times.
    quarter = len(memory) // 4
    settled, last = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    assert last - settled < MAX_GROWTH_MB
