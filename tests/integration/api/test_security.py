"""Security: response headers, cookies, forged jobs in Redis, secrets in error texts.

What docs/security.md says besides is proved where it belongs: the page names the tests.
"""

import re
import socket
import sys
from base64 import b64encode
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from dev.stack.ports import free_port
from shared.config.settings import ApiSettings, load_settings
from shared.queues import NotificationJob
from tests.integration.conftest import TOKEN, make_app, make_client
from tests.support.system import Process
from tests.support.waiting import wait_for

SIGN_IN = {
    "OIDC_ISSUER": "https://login.example.com",
    "OIDC_CLIENT_ID": "notifications",
    "OIDC_CLIENT_SECRET": "known to the provider",
}
PUBLISHED = {"PUBLIC_URL": "https://notify.example.com"}
# One of each kind: data, a mistake, nothing there, no token, probes, metrics, pages, their files.
ANSWERS = {
    "/api/v1/clients": 200,
    "/api/v1/clients.csv": 200,
    "/api/v1/clients?limit=none": 422,
    "/api/v1/nothing": 404,
    "/elsewhere": 404,
    "/healthz": 200,
    "/readyz": 200,
    "/metrics": 200,
    "/apidoc/openapi.json": 200,
    "/apidoc/swagger": 302,
    "/docs/": 200,
    "/docs/swagger-ui.css": 200,
    "/admin/": 302,
    "/admin/sign-in": 200,
    "/admin/static/admin.css": 200,
    "/admin/sign-in/callback?state=forged": 400,
}
HSTS = "Strict-Transport-Security"


@pytest.fixture(scope="module")
def published(database_url: str, redis_url: str) -> FlaskClient:
    """The service as it is deployed: behind TLS, and with people who sign in."""
    return make_client(make_app(database_url, redis_url, **SIGN_IN, **PUBLISHED))


@pytest.mark.parametrize("path", ANSWERS)
def test_every_response_has_security_headers(
    published: FlaskClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.Session, "request", no_provider)
    answer = published.get(path, headers={"Accept": "text/html, */*"}, buffered=True)
    assert answer.status_code == ANSWERS[path], answer.text
    headers = answer.headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "*" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] in ("no-referrer", "same-origin")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers[HSTS] == "max-age=31536000"
    assert answer.content_type, "a browser would guess"
    if not path.startswith(("/docs/", "/admin/static/")):
        assert headers["Cache-Control"] == "no-store"


def no_provider(*_: object, **__: object) -> requests.Response:
    raise requests.ConnectionError("there is no such provider")


def test_response_to_a_defect_has_security_headers(database_url: str, redis_url: str) -> None:
    broken = make_app(database_url, redis_url)
    broken.add_url_rule("/broken", view_func=lambda: str(1 // 0))
    answer = broken.test_client().get("/broken")
    assert answer.status_code == 500
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_swagger_ui_may_run_only_its_own_scripts(client: FlaskClient) -> None:
    answer = client.get("/docs/")
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert len(inline) == 1
    known = b64encode(sha256(inline[0].encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{known}';" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"\son\w+=|style=|<style", answer.text), "the policy would break the page"


def test_other_origins_cannot_read_responses(client: FlaskClient) -> None:
    stranger = {"Origin": "https://evil.example"}
    asked = {**stranger, "Access-Control-Request-Method": "GET"}
    for answer in (
        client.get("/api/v1/clients", headers=stranger),
        client.options("/api/v1/clients", headers=asked),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control-")]


def test_token_in_the_query_string_is_ignored(app: Flask) -> None:
    for name in ("token", "access_token", "api_key"):
        assert app.test_client().get(f"/api/v1/clients?{name}={TOKEN}").status_code == 401


def test_host_header_is_not_trusted(client: FlaskClient) -> None:
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    made = client.post(
        "/api/v1/clients", json={"phone": "79150000001", "timezone": "Europe/Moscow"}, headers=evil
    )
    for answer in (made, client.get("/apidoc/swagger", headers=evil)):
        assert answer.headers["Location"].startswith("/")
        assert "evil" not in answer.text + answer.headers["Location"]


def test_session_cookie_requires_tls(published: FlaskClient) -> None:
    stranger = published.application.test_client()
    cookie = stranger.get("/admin/sign-in").headers["Set-Cookie"]
    flags = {part.strip() for part in cookie.split(";")[1:]}
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/admin"} <= flags


def test_hsts_is_sent_over_tls_only(client: FlaskClient) -> None:
    assert HSTS not in client.get("/healthz").headers
    assert HSTS in client.get("/healthz", base_url="https://notify.example.com").headers


def test_only_a_trusted_proxy_can_declare_tls(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    servers = {}
    try:
        for name, trusted in (("trusted", "127.0.0.1"), ("stranger", "10.9.8.7")):
            bind = f"127.0.0.1:{free_port()}"
            process = Process(
                name,
                [
                    sys.executable,
                    "-m",
                    "gunicorn",
                    "-c",
                    "api/gunicorn_conf.py",
                    "api:create_app()",
                ],
                {
                    "DATABASE_URL": database_url,
                    "REDIS_URL": redis_url,
                    "API_BOOTSTRAP_TOKEN": TOKEN,
                    "SECRET_KEY": "test-6b1f93d8c42e7a05",
                    "API_BIND": bind,
                    "WEB_CONCURRENCY": "1",
                    "PUBLIC_URL": "",
                    "OIDC_ISSUER": "",
                    "FORWARDED_ALLOW_IPS": trusted,
                    "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / f"{name}-metrics"),
                },
                tmp_path / f"{name}.log",
            )
            process.start()
            servers[name] = (process, f"http://{bind}/healthz")
        for name, (_, url) in servers.items():
            wait_for(partial(answers, url), 30, f"the API behind a {name}")
            said = requests.get(url, headers={"X-Forwarded-Proto": "https"}, timeout=5)
            assert (HSTS in said.headers) == (name == "trusted")
            assert HSTS not in requests.get(url, timeout=5).headers
    finally:
        for process, _ in servers.values():
            process.kill()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


class Payload:
    """An object that executes a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.marker}",)


def test_redis_content_cannot_execute_code(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Jobs that name other functions, in whatever place, and pickles fail without being run."""
    redis = Redis.from_url(redis_url)
    plain = Queue("control", connection=redis, serializer=JSONSerializer)
    marker = tmp_path / "run"
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "planted.py").write_text(
        f"from pathlib import Path\ndef note(*_): Path({str(marker)!r}).touch()\n"
    )
    note = Callback("planted.note")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        told = [Webhook(url, "failed"), Webhook(url, "finished")]
        plain.enqueue("os.system", f"touch {marker}", on_failure=note, webhooks=told)
        plain.enqueue("subprocess.check_call", ["touch", str(marker)])
        plain.enqueue("planted.note")
        Queue("control", connection=redis).enqueue("worker.jobs.sweep", Payload(marker))
        redis.hset("rq:job:by-hand", mapping={"data": "[]", "origin": "control"})
        redis.rpush("rq:queue:control", "by-hand")
        # A known one, behind all of them: the worker gets there, and does no more than it names.
        last = plain.enqueue("worker.jobs.sweep", on_success=note, webhooks=told, result_ttl=60)
        worker = Process(
            "control",
            [sys.executable, "-m", "worker", "control"],
            {
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "PROVIDER_URL": "http://127.0.0.1:9",
                "PROVIDER_TOKEN": "none",
                "PYTHONPATH": str(planted),
            },
            tmp_path / "control.log",
        )
        worker.start()
        try:
            wait_for(lambda: last.get_status() == "finished", 30, "an honest job is done")
        finally:
            worker.kill()
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not marker.exists()
    log = (tmp_path / "control.log").read_text()
    for name in ("os.system", "subprocess.check_call", "planted.note"):
        assert f"unknown job: {name}" in log
    assert log.count("job.unreadable") == 2


def test_delayed_job_cannot_choose_the_schedulers_classes(redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    plain = Job.create(
        "worker.jobs.sweep", connection=redis, serializer=JSONSerializer, origin="control"
    )
    plain.meta = {"queue_class_name": "os.system", "interval": 1}
    plain.save()
    job = NotificationJob.fetch(plain.id, connection=redis)
    assert job.meta == {"interval": 1}


def test_malformed_secret_is_not_disclosed(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"DATABASE_URL": "postgresql://u:p@localhost/x", "REDIS_URL": "redis://localhost/0"}
    for name, value in {**base, "SECRET_KEY": "s" * 16, "API_BOOTSTRAP_TOKEN": "too-short"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        load_settings(ApiSettings)
    assert "API_BOOTSTRAP_TOKEN" in str(end.value)
    assert "too-short" not in str(end.value)
