"""Redis or PostgreSQL cannot serve: no process ends, each says what is wrong, and it recovers."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
from flask import Flask
from redis import Redis
from redis.exceptions import ConnectionError, ReadOnlyError, WatchError

from dev.stack.ports import free_port
from dev.stack.services import Postgres, Valkey
from shared.queues import Queues
from shared.redis_client import OutageLog, PatientRetry, describe_address, patient_client
from shared.startup import describe_database
from tests.integration.conftest import (
    ADMIN_URL,
    ahead,
    mailing_body,
    make_admin_app,
    make_client,
)
from tests.support.admin_sessions import sign_in_as
from tests.support.programs import require_program
from tests.support.system import Process
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_for

ROLES = ("scheduler", "control", "sweep", "dispatch")
MISSING_MAILING = 987_654_321
RECOVERY_SECONDS = 5.0


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[Valkey]:
    yield from run_valkey(tmp_path / "valkey")


@pytest.fixture
def other_valkey(tmp_path: Path) -> Iterator[Valkey]:
    yield from run_valkey(tmp_path / "other")


def run_valkey(directory: Path) -> Iterator[Valkey]:
    server = Valkey(directory)
    server.start()
    yield server
    server.remove()


def make_environment(database_url: str, redis_url: str, directory: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PROVIDER_URL": "http://127.0.0.1:9",
        "PROVIDER_TOKEN": "test-provider-token",
        "TMPDIR": str(directory),
    }


@contextmanager
def running(environment: dict[str, str], directory: Path, *roles: str) -> Iterator[list[Process]]:
    processes = [
        Process(
            role, [sys.executable, "-m", "worker", role], environment, directory / f"{role}.log"
        )
        for role in roles
    ]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()


def read_lines(process: Process) -> list[dict[str, Any]]:
    """Return the log's events; every line is one JSON object, so no traceback is among them."""
    lines = process.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines]


def wait_for_event(process: Process, event: str, after: int = 0) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        return next((each for each in read_lines(process)[after:] if each["event"] == event), None)

    return wait_for(find, 20, f"{process.name} logs {event}")


def heartbeat_file(process: Process, directory: Path) -> Path:
    assert process.popen
    return directory / f"notifications-{process.popen.pid}.alive"


def assert_no_library_errors(processes: list[Process]) -> None:
    for process in processes:
        assert process.running, f"{process.name} has ended: {read_lines(process)[-3:]}"
        levels = {each["level"] for each in read_lines(process)}
        assert "error" not in levels, [e for e in read_lines(process) if e["level"] == "error"]


def assert_works(redis_url: str) -> None:
    """Assert that a job is done and that the scheduler sweeps, within seconds."""
    queues = Queues.connect(redis_url, timeout=5)
    wait_for(lambda: queues.check() == "ok", RECOVERY_SECONDS, "Redis serves")
    redis = queues.connection
    assert queues.enqueue_launch(MISSING_MAILING)
    sweep = "notification:metrics:swept"
    redis.delete(sweep)
    wait_for(lambda: redis.exists(sweep), RECOVERY_SECONDS, "a sweep")
    left = f"rq:job:launch-{MISSING_MAILING}-*"
    wait_for(lambda: not list(redis.scan_iter(left)), RECOVERY_SECONDS, "the job is done")


# --- the clients --------------------------------------------------------------------------------


def test_patient_client_outlasts_any_number_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    waits: list[int] = []
    retry = PatientRetry(OutageLog(), Event(), lambda: waits.append(1))
    failures = iter([ConnectionError("refused")] * 5_000 + [ReadOnlyError("x", status_code="OOM")])

    def attempt() -> str:
        for error in failures:
            raise error
        return "done"

    assert retry.call_with_retry(attempt, lambda _: None) == "done"
    assert len(waits) == 5_001


def test_patient_client_stops_waiting_at_a_signal() -> None:
    stopping = Event()
    client = patient_client(f"redis://127.0.0.1:{free_port()}/0", stopping, stopping.set)
    with pytest.raises(ConnectionError):
        client.ping()


def test_patient_client_lets_a_watching_transaction_start_again(valkey_server: Valkey) -> None:
    stopping = Event()
    client = patient_client(valkey_server.url, stopping, lambda: None)
    admin = Redis.from_url(valkey_server.url)
    with client.pipeline() as pipeline:
        pipeline.watch("key")  # type: ignore[no-untyped-call]
        admin.client_kill_filter(_type="normal", skipme=True)
        pipeline.multi()
        pipeline.set("key", 1)
        with pytest.raises(WatchError):
            pipeline.execute()
    assert client.ping()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@cache:6380/2", "redis://cache:6380/2"),
        ("rediss://worker:sec%40ret@cache", "rediss://worker@cache:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_addresses_are_shown_without_passwords(url: str, shown: str) -> None:
    assert describe_address(url) == shown


def test_several_database_hosts_are_shown_without_user_and_password() -> None:
    url = "postgresql://user:secret@first:5433,second:5434/notifications?sslmode=require"
    assert describe_database(url) == "first:5433,second:5434/notifications"


# --- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_process_started_without_redis_waits(
    role: str, database_url: str, valkey_server: Valkey, tmp_path: Path
) -> None:
    valkey_server.stop()
    environment = make_environment(database_url, valkey_server.url, tmp_path)
    with running(environment, tmp_path, role) as (process,):
        started = wait_for_event(process, "process.started")
        assert started["version"]
        assert started["redis"] == describe_address(valkey_server.url)
        away = wait_for_event(process, "redis.away")
        assert "unreachable" in away["error"]
        assert valkey_server.password not in process.log.read_text()
        heartbeat = heartbeat_file(process, tmp_path)
        before = heartbeat.stat().st_mtime_ns
        wait_for(lambda: heartbeat.stat().st_mtime_ns > before, 5, "its heartbeat goes on")
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 5
        process.start()
        known = len(read_lines(process))
        wait_for_event(process, "redis.away", after=known)
        valkey_server.start()
        wait_for_event(process, "redis.back", after=known)
        assert_no_library_errors([process])
        assert process.stop() == 0


@pytest.mark.parametrize("role", ["control", "dispatch"])
def test_process_started_without_postgresql_waits(
    role: str, tmp_path: Path, redis_url: str
) -> None:
    postgres = Postgres(tmp_path / "postgres")
    postgres.start()
    try:
        postgres.stop()
        environment = make_environment(postgres.url, redis_url, tmp_path)
        with running(environment, tmp_path, role) as (process,):
            assert wait_for_event(process, "process.started")["database"].endswith(
                f"127.0.0.1:{postgres.port}/notifications"
            )
            wait_for_event(process, "database.unavailable")
            heartbeat = heartbeat_file(process, tmp_path)
            before = heartbeat.stat().st_mtime_ns
            wait_for(lambda: heartbeat.stat().st_mtime_ns > before, 5, "its heartbeat goes on")
            assert process.stop() == 0
            process.start()
            known = len(read_lines(process))
            wait_for_event(process, "database.unavailable", after=known)
            postgres.start()
            wait_for_event(process, "database.back", after=known)
            assert_no_library_errors([process])
    finally:
        postgres.remove()


def test_api_started_without_anything_says_so(tmp_path: Path) -> None:
    environment = {
        **make_environment(
            f"postgresql://u:secret-password@127.0.0.1:{free_port()}/x",
            f"redis://:secret-password@127.0.0.1:{free_port()}/0",
            tmp_path,
        ),
        "API_BIND": f"127.0.0.1:{free_port()}",
        "API_BOOTSTRAP_TOKEN": "test-0e7c4a95b3f81d62",
        "SECRET_KEY": "test-6b1f93d8c42e7a05",
    }
    argv = [sys.executable, "-m", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"]
    process = Process("api", argv, environment, tmp_path / "api.log")
    process.start()
    try:
        started = wait_for_event(process, "process.started")
        assert started["version"]
        assert "database" in started
        wait_for_event(process, "redis.away")
        wait_for_event(process, "database.unavailable")
        assert requests.get(f"http://{environment['API_BIND']}/healthz", timeout=5).ok
        assert "secret-password" not in process.log.read_text()
        assert process.stop() == 0
    finally:
        process.kill()


def test_stopping_works_during_an_outage(
    database_url: str, valkey_server: Valkey, tmp_path: Path
) -> None:
    environment = make_environment(database_url, valkey_server.url, tmp_path)
    with running(environment, tmp_path, *ROLES) as processes:
        assert_works(valkey_server.url)
        valkey_server.kill()
        for process in processes:
            wait_for_event(process, "redis.away")
        for process in processes:
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 5


def test_failover_behind_an_address_that_stays(
    database_url: str, valkey_server: Valkey, other_valkey: Valkey, tmp_path: Path
) -> None:
    """The old primary is demoted and still answers; then the address leads to the new one."""
    set_same_password(valkey_server, other_valkey)
    target = valkey_server
    with TcpProxy(lambda: target.port) as proxy:
        url = f"redis://:{valkey_server.password}@127.0.0.1:{proxy.port}/0"
        client = make_client(make_admin_app(database_url, url))
        environment = make_environment(database_url, url, tmp_path)
        with running(environment, tmp_path, *ROLES) as processes:
            assert_works(url)
            Redis.from_url(valkey_server.url).replicaof("127.0.0.1", other_valkey.port)
            for process in processes:
                assert "READONLY" in wait_for_event(process, "redis.away")["error"] or (
                    "UNBLOCKED" in wait_for_event(process, "redis.away")["error"]
                )
            assert client.get("/readyz").get_json()["redis"] == "READONLY"
            assert client.post("/api/v1/mailings", json=mailing_body()).status_code == 201
            target = other_valkey
            for process in processes:
                wait_for_event(process, "redis.back")
            assert_works(url)
            assert client.get("/readyz").get_json()["redis"] == "ok"
            assert_no_library_errors(processes)


def set_same_password(first: Valkey, second: Valkey) -> None:
    Redis.from_url(second.url).config_set("requirepass", first.password)
    second._state["password"] = first.password  # so that its address is right
    Redis.from_url(first.url).config_set("masterauth", first.password)


def fill_memory(redis: Any) -> Callable[[], object]:
    redis.config_set("maxmemory", 1)
    return lambda: redis.config_set("maxmemory", 0)


def demote(redis: Any) -> Callable[[], object]:
    redis.replicaof("127.0.0.1", free_port())
    return lambda: redis.replicaof("NO", "ONE")


def forbid_writes(redis: Any) -> Callable[[], object]:
    """Take the right to write from the user of the product; the caller has another one."""
    redis.execute_command("ACL", "SETUSER", "default", "-@write")
    return lambda: redis.execute_command("ACL", "SETUSER", "default", "+@all")


FAULTS: dict[str, Callable[[Redis], Callable[[], object]]] = {
    "OOM": fill_memory,
    "READONLY": demote,
    "NOPERM": forbid_writes,
}


def admin_connection(server: Valkey) -> Redis:
    """Connect as a user whose rights no fault changes."""
    default: Any = Redis.from_url(server.url)
    default.execute_command("ACL", "SETUSER", "admin", "on", ">admin-password", "~*", "&*", "+@all")
    return Redis(port=server.port, username="admin", password="admin-password")


@pytest.mark.parametrize("code", FAULTS)
def test_processes_outlast_a_redis_that_refuses(
    code: str, database_url: str, valkey_server: Valkey, tmp_path: Path
) -> None:
    redis = admin_connection(valkey_server)
    environment = make_environment(database_url, valkey_server.url, tmp_path)
    with running(environment, tmp_path, *ROLES) as processes:
        assert_works(valkey_server.url)
        restore = FAULTS[code](redis)
        for process in processes:
            error = wait_for_event(process, "redis.away")["error"]
            assert code in error or "UNBLOCKED" in error
        restore()
        assert_works(valkey_server.url)
        for process in processes:
            wait_for_event(process, "redis.back")
        assert_no_library_errors(processes)


# --- the API ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", FAULTS)
def test_api_answers_while_redis_refuses(
    code: str, database_url: str, valkey_server: Valkey
) -> None:
    app = make_admin_app(database_url, valkey_server.url)
    restore = FAULTS[code](admin_connection(valkey_server))
    assert make_client(app).get("/readyz").get_json()["redis"] == code
    use_everything(app)
    restore()
    assert make_client(app).get("/readyz").get_json()["redis"] == "ok"


def test_api_answers_while_keys_have_the_wrong_type(
    database_url: str, valkey_server: Valkey
) -> None:
    redis = Redis.from_url(valkey_server.url)
    for key in (
        *("rq:queue:control", "rq:queue:dispatch", "rq:workers:dispatch", "rq:workers:control"),
        *("rq:scheduler:scheduled_jobs", "rq:queues", "notification:metrics", "notification:hold"),
        *("notification:breaker", "notification:metrics:senders", "notification:admin:live"),
    ):
        redis.xadd(key, {"a": "b"})
    use_everything(make_admin_app(database_url, valkey_server.url))


def test_api_answers_while_figures_are_malformed(database_url: str, valkey_server: Valkey) -> None:
    redis = Redis.from_url(valkey_server.url)
    redis.hset("notification:metrics", mapping={"late": "x", "seconds": b"\xff"})
    redis.hset("notification:breaker", mapping={"until": "x", "opened_at": b"\xff"})
    redis.set("notification:metrics:swept", b"\xff")
    redis.set("notification:admin:live", b'{"mailings": 7}')
    use_everything(make_admin_app(database_url, valkey_server.url))


def use_everything(app: Flask) -> None:
    """Call what uses Redis: jobs, the health, metrics, sessions, live figures, test sends."""
    client = make_client(app)
    made = client.post(
        "/api/v1/mailings", json=mailing_body(), headers={"Idempotency-Key": str(time.time_ns())}
    )
    assert made.status_code == 201
    mailing = f"/api/v1/mailings/{made.get_json()['id']}"
    later = {"start_at": ahead(minutes=30)}
    calls: list[tuple[str, str, dict[str, Any] | None]] = [
        ("PATCH", mailing, later),
        ("POST", f"{mailing}/start", None),
        ("POST", f"{mailing}/pause", None),
        ("POST", f"{mailing}/resume", None),
        ("POST", f"{mailing}/cancel", None),
        ("POST", "/api/v1/opt-outs", {"phones": ["79990000001"]}),
        ("GET", "/metrics", None),
        ("GET", "/readyz", None),
    ]
    for method, path, body in calls:
        assert client.open(path, method=method, json=body).status_code < 300, path
    person = app.test_client()
    sign_in_as(app, person, "admin", ADMIN_URL)
    for path in ("/admin/", "/admin/mailings", "/admin/clients"):
        answer = person.get(path, base_url=ADMIN_URL, headers={"Accept": "text/html"})
        assert answer.status_code == 200, path


# --- addresses ----------------------------------------------------------------------------------


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis that takes TLS only, with the user that docs/configuration.md shows."""
    program = require_program("redis-server")
    folder = tmp_path / "tls"
    folder.mkdir()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    acl = read_documented_acl()
    (folder / "redis.conf").write_text(
        f"bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file {folder}/ca.pem\n"
        f"tls-key-file {folder}/key.pem\ntls-ca-cert-file {folder}/ca.pem\n"
        f'tls-auth-clients no\ndir "{folder}"\nsave ""\nuser default off\n{acl}\n'
    )
    with (folder / "redis.log").open("wb") as output:
        server = subprocess.Popen([program, str(folder / "redis.conf")], stdout=output)
    url = f"rediss://notifications:PASSWORD@localhost:{port}/0?ssl_ca_certs={folder}/ca.pem"
    try:
        wait_for(lambda: Queues.connect(url, 2).check() == "ok", 10, "Redis with TLS")
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def read_documented_acl() -> str:
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    return next(line for line in page.splitlines() if line.startswith("user notifications "))


def test_tls_with_the_documented_user(database_url: str, tls_redis: str, tmp_path: Path) -> None:
    app = make_admin_app(database_url, tls_redis)
    environment = make_environment(database_url, tls_redis, tmp_path)
    with running(environment, tmp_path, *ROLES) as processes:
        assert_works(tls_redis)
        use_everything(app)
        assert make_client(app).get("/readyz").get_json()["redis"] == "ok"
        assert_no_library_errors(processes)
        assert "PASSWORD" not in processes[0].log.read_text()


def test_wrong_password_is_named(database_url: str, valkey_server: Valkey) -> None:
    wrong = valkey_server.url.replace(valkey_server.password, "wrong-password")
    client = make_client(make_admin_app(database_url, wrong))
    assert client.get("/readyz").get_json()["redis"] == "WRONGPASS"
