"""Measure the pages of the admin UI beside 5,000 mailings and 1,000,000 clients.

`python -m dev.bench.admin_pages [--mailings N] [--clients N]` measures them, in some minutes.
"""

import argparse
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import requests

from dev.bench.environment import BenchEnvironment, cpu_seconds, list_children
from dev.bench.figures import Figure, format_figure
from dev.openid import CLIENT_SECRET
from dev.stack.ports import free_port
from shared.db.partitions import ensure_partition

REQUESTS, UNMEASURED = 40, 3
MAX_SECONDS = 0.1
SMALL_AUDIENCE, BATCH_SIZE = 60, 500
ZONES = "ARRAY['Europe/Moscow', 'Asia/Omsk', 'Asia/Kamchatka']"
CSRF_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')

# Finished mailings to the same 60 clients in three zones.
ADD_FINISHED = """
INSERT INTO mailings (name, text, start_at, end_at, status, started_at, finished_at, settled,
    audience, audience_complete, sent)
SELECT 'Mailing ' || n, 'Hello', now() - interval '2 days', now() - interval '1 day', 'finished',
    now() - interval '2 days', now() - interval '1 day', true, %(size)s, true, %(size)s
FROM generate_series(1, %(mailings)s) AS n RETURNING id
"""
ADD_RUNNING = """
INSERT INTO mailings (name, text, start_at, end_at, status, started_at, audience, audience_complete)
VALUES ('Large', 'Hello', now() - interval '10 hours', now() + interval '1 day', 'running',
    now() - interval '10 hours', %(size)s, true) RETURNING id
"""
ADD_TEXTS = "INSERT INTO mailing_texts SELECT unnest(%(ids)s::bigint[]), 1, 'Hello'"
ADD_FINISHED_MESSAGES = """
INSERT INTO messages (mailing_id, id, client_id, batch_id, status, sent_at)
SELECT mailing, mailing * 1000 + n, n, mailing * 10 + n %% 3, 'sent', now() - interval '1 day'
FROM unnest(%(ids)s::bigint[]) AS mailing CROSS JOIN generate_series(1, %(size)s) AS n
"""
ADD_FINISHED_BATCHES = f"""
INSERT INTO batches (mailing_id, id, first_id, last_id, size, pending, sent, text_version, timezone)
SELECT mailing, mailing * 10 + n, mailing * 1000, mailing * 1000 + 999, %(size)s / 3, 0,
    %(size)s / 3, 1, ({ZONES})[n + 1]
FROM unnest(%(ids)s::bigint[]) AS mailing CROSS JOIN generate_series(0, 2) AS n
"""  # noqa: S608 (constants)
# Of the running one a third waits for its window; of the others two of a hundred have failed.
ADD_RUNNING_MESSAGES = """
INSERT INTO messages (mailing_id, id, client_id, batch_id, status, attempts, reason, sent_at)
SELECT %(id)s, 10000000 + n, n, 1000000 + n / %(batch)s, status::message_status, 1,
    CASE status WHEN 'failed' THEN 'rejected: http_' || 400 + n %% 7 END,
    CASE status WHEN 'sent' THEN now() - n %% 36000 * interval '1 second' END
FROM generate_series(0, %(size)s - 1) AS n CROSS JOIN LATERAL (
    SELECT CASE WHEN n / %(batch)s %% 3 = 2 THEN 'pending' WHEN n %% 50 = 0 THEN 'failed'
        ELSE 'sent' END AS status
) AS chosen
"""
ADD_RUNNING_BATCHES = f"""
INSERT INTO batches (mailing_id, id, first_id, last_id, size, pending, sent, failed, due_at,
    text_version, timezone)
SELECT mailing_id, batch_id, min(id), max(id), count(*),
    count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'sent'),
    count(*) FILTER (WHERE status = 'failed'),
    CASE WHEN bool_or(status = 'pending') THEN now() + interval '6 hours' END, 1,
    ({ZONES})[1 + batch_id %% 3]
FROM messages WHERE mailing_id = %(id)s GROUP BY 1, 2
"""  # noqa: S608 (constants)
ADD_ATTEMPTS = """
INSERT INTO attempts (mailing_id, message_id, at, outcome, reason, http_status, latency_ms, excerpt)
SELECT mailing_id, id, now(), 'rejected', reason, 400, 12, '{"code":7}' FROM messages
WHERE mailing_id = %(id)s AND status = 'failed'
"""
ADD_MINUTES = """
INSERT INTO minutes (mailing_id, minute, shard, status, count)
SELECT mailing_id, date_trunc('minute', sent_at), 0, 'sent', count(*) FROM messages
WHERE status = 'sent' GROUP BY 1, 2
"""
TABLES = ("clients", "mailings", "messages", "batches", "attempts", "minutes", "mailing_texts")


def measure_admin_pages(bench: BenchEnvironment, mailings: int, clients: int) -> Iterator[Figure]:
    """Measure the 95th percentile of how long each page takes, from request to last byte."""
    running = _add_mailings(bench, mailings, clients)
    home, session = _sign_in(bench)
    for name, path in (
        ("dashboard", "/admin/"),
        ("mailings", "/admin/mailings"),
        ("mailings, by a word", "/admin/mailings?q=Large"),
        ("large mailing", f"/admin/mailings/{running}"),
        ("large mailing, failed", f"/admin/mailings/{running}?status=failed"),
        ("large mailing, by phone", f"/admin/mailings/{running}?phone=79000000777"),
        ("small mailing", f"/admin/mailings/{running - 1}"),
        ("clients", "/admin/clients"),
        ("clients, by tag", "/admin/clients?tag=pages"),
        ("client with all mailings", "/admin/clients/7"),
        ("client with one mailing", f"/admin/clients/{clients // 2}"),
        ("opt-outs", "/admin/opt-outs"),
        ("audit", "/admin/audit"),
    ):
        pids = [bench.processes["admin"].pid, *list_children(bench.processes["admin"].pid)]
        before = sum(map(cpu_seconds, pids)) + bench.postgres_cpu_seconds()
        seconds = _time_page(session, home + path)
        used = sum(map(cpu_seconds, pids)) + bench.postgres_cpu_seconds() - before
        yield Figure(f"page: {name}, 95 %", seconds * 1000, "ms", MAX_SECONDS * 1000, at_most=True)
        # What it takes on an idle machine: other work does not lengthen it.
        yield Figure(f"page: {name}, CPU", used / (REQUESTS + UNMEASURED) * 1000, "ms")


def _add_mailings(bench: BenchEnvironment, mailings: int, clients: int) -> int:
    """Add finished mailings and a running one to all clients; return the id of the latter."""
    bench.add_clients(clients, "pages")
    values: dict[str, object] = {"mailings": mailings - 1, "size": SMALL_AUDIENCE}
    ids = [id_ for (id_,) in bench.query(ADD_FINISHED, **values)]
    ((running,),) = bench.query(ADD_RUNNING, size=clients)
    with closing(psycopg2.connect(bench.postgres.url)) as connection, connection:
        for mailing_id in (*ids, running):
            ensure_partition(connection.cursor(), mailing_id)
    bench.query(ADD_TEXTS, ids=[*ids, running])
    for statement in (ADD_FINISHED_MESSAGES, ADD_FINISHED_BATCHES):
        bench.query(statement, ids=ids, size=SMALL_AUDIENCE)
    bench.query(ADD_RUNNING_MESSAGES, id=running, size=clients, batch=BATCH_SIZE)
    for statement in (ADD_RUNNING_BATCHES, ADD_ATTEMPTS):
        bench.query(statement, id=running)
    bench.query(ADD_MINUTES)
    for table in TABLES:
        bench.query(f"VACUUM ANALYZE {table}")
    return int(running)


def _sign_in(bench: BenchEnvironment) -> tuple[str, requests.Session]:
    """Start an API with the admin UI and its OpenID provider, and sign in as an administrator."""
    port, openid = free_port(), free_port()
    home = f"http://127.0.0.1:{port}"
    bench.start_process("openid", "dev.openid", "--port", str(openid))
    bench.wait_for(lambda: _answers(f"http://127.0.0.1:{openid}/keys"), 30)
    bench.start_process(
        "admin",
        *("gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"),
        API_BIND=f"127.0.0.1:{port}",
        OIDC_ISSUER=f"http://127.0.0.1:{openid}",
        OIDC_CLIENT_ID="notifications",
        OIDC_CLIENT_SECRET=CLIENT_SECRET,
        PUBLIC_URL=home,
        WEB_CONCURRENCY="1",
        PROMETHEUS_MULTIPROC_DIR=str(bench.directory / "admin-metrics"),
    )
    bench.wait_for(lambda: _answers(f"{home}/readyz"), 60)
    session = requests.Session()
    session.trust_env = False
    page = session.get(f"{home}/admin/sign-in", timeout=30).text
    found = CSRF_TOKEN.search(page)
    assert found is not None  # noqa: S101
    people = session.post(f"{home}/admin/sign-in", data={"csrf_token": found[1]}, timeout=30)
    session.post(people.url, data={"person": "anna"}, timeout=30).raise_for_status()
    return home, session


def _time_page(session: requests.Session, address: str) -> float:
    """Return the 95th percentile of the seconds that a page takes, after three unmeasured ones."""
    taken = []
    for n in range(REQUESTS + UNMEASURED):
        began = time.perf_counter()
        answer = session.get(address, timeout=60, allow_redirects=False)
        answer.raise_for_status()
        assert answer.status_code == 200, answer.headers  # noqa: S101
        if n >= UNMEASURED:
            taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=20)[-1]


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=2).ok
    except requests.RequestException:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.admin_pages", description=__doc__)
    parser.add_argument("--mailings", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=1_000_000)
    options = parser.parse_args()
    with BenchEnvironment(api_processes=1) as bench:
        for figure in measure_admin_pages(bench, options.mailings, options.clients):
            print(format_figure(figure), flush=True)


if __name__ == "__main__":
    main()
