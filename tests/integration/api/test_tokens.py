"""API tokens: creation, storage as a hash, scopes, expiry and revocation."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.cli.tokens import token_commands
from shared.domain.scopes import Scope
from tests.integration.api.test_problems import every_route, problem
from tests.integration.conftest import TOKEN, ahead, mailing_body, value
from tests.support.system import ROOT
from tests.support.waiting import COMMAND_SECONDS, wait_for

TOKENS, CLIENTS, MAILINGS = "/api/v1/tokens", "/api/v1/clients", "/api/v1/mailings"
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def new_token(client: FlaskClient) -> Make:
    """Makes a token over the API, with a name that no other has."""
    names = (f"token {os.urandom(4).hex()}" for _ in range(1000))

    def make(scope: str, **fields: Any) -> dict[str, Any]:
        answer = client.post(TOKENS, json={"name": next(names), "scope": scope, **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.get_json()
        return made

    return make


def bearer(token: dict[str, Any] | str) -> dict[str, str]:
    secret = token if isinstance(token, str) else token["token"]
    return {"Authorization": f"Bearer {secret}"}


def test_secret_is_returned_once_and_stored_hashed(
    client: FlaskClient, database: Cursor, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"name": "billing", "scope": "write", "expires_at": ahead(hours=1)}
    answer = client.post(TOKENS, json=body)
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.get_json()
    secret = made.pop("token")
    assert re.fullmatch("nt_[A-Za-z0-9_-]{43}", secret)
    assert made["prefix"] == secret[:11]
    assert (made["name"], made["scope"]) == ("billing", "write")
    assert (made["expires_at"], made["revoked_at"]) == (body["expires_at"], None)
    shown = client.get(TOKENS)
    assert made in shown.get_json()["items"]
    database.execute("SELECT digest, t::text FROM api_tokens t WHERE id = %s", (made["id"],))
    ((digest, row),) = database.fetchall()
    assert bytes(digest) == hashlib.sha256(secret.encode()).digest()
    for place in (shown.text, row, capsys.readouterr().out):
        assert secret not in place
        assert secret[11:] not in place


def test_token_name_is_unique_until_the_token_is_revoked(
    client: FlaskClient, new_token: Make
) -> None:
    first = new_token("read", name="twice")
    problem(client.post(TOKENS, json={"name": "twice", "scope": "admin"}), 409)
    assert client.delete(f"{TOKENS}/{first['id']}").status_code == 204
    assert new_token("read", name="twice")["id"] != first["id"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "x"}, "/scope"),
        ({"name": "x", "scope": "root"}, "/scope"),
        ({"name": "", "scope": "read"}, "/name"),
        ({"name": "x" * 101, "scope": "read"}, "/name"),
        ({"name": "a\nb", "scope": "read"}, "/name"),
        ({"name": "x", "scope": "read", "expires_at": ahead(hours=-1)}, "/expires_at"),
        ({"name": "x", "scope": "read", "expires_at": "tomorrow"}, "/expires_at"),
        ({"name": "x", "scope": "read", "token": "mine"}, "/token"),
    ],
)
def test_invalid_token_requests_are_rejected(
    client: FlaskClient, body: dict[str, Any], pointer: str
) -> None:
    (fault,) = problem(client.post(TOKENS, json=body), 422)["errors"]
    assert fault["pointer"] == pointer


def test_every_route_requires_its_scope(app: Flask, new_token: Make) -> None:
    tokens = {scope: new_token(scope) for scope in Scope}
    stranger = app.test_client()
    for method, path in every_route(app):
        with app.test_request_context(path, method=method) as context:
            view = app.view_functions[str(context.request.endpoint)]
        assert hasattr(view, "scope"), (
            f"{method} {path} says no scope: describe it with @operation (api/openapi/operation.py)"
        )
        looks = method in ("GET", "HEAD", "OPTIONS")
        needed = view.scope or (Scope.READ if looks else Scope.WRITE)
        for scope in Scope:
            if list(Scope).index(scope) < list(Scope).index(needed):
                answer = stranger.open(path, method=method, headers=bearer(tokens[scope]))
                assert answer.status_code == 403, f"{method} {path} with {scope}"
                assert answer.headers["WWW-Authenticate"] == (
                    f'Bearer error="insufficient_scope", scope="{needed}"'
                )
                if method != "HEAD":
                    problem(answer, 403)


def test_scopes_permit_what_they_name(app: Flask, new_token: Make) -> None:
    allowed = {
        "read": {("GET", CLIENTS), ("GET", MAILINGS)},
        "write": {("GET", CLIENTS), ("GET", MAILINGS), ("POST", MAILINGS)},
        "admin": {("GET", CLIENTS), ("GET", MAILINGS), ("POST", MAILINGS), ("GET", TOKENS)},
    }
    stranger = app.test_client()
    for scope, calls in allowed.items():
        headers = bearer(new_token(scope))
        for method, path in allowed["admin"]:
            body = mailing_body() if method == "POST" else None
            answer = stranger.open(path, method=method, json=body, headers=headers)
            assert answer.status_code in ({200, 201} if (method, path) in calls else {403})
        assert stranger.get("/api/v1/nothing", headers=headers).status_code == 404


def test_revoked_token_is_rejected(app: Flask, client: FlaskClient, new_token: Make) -> None:
    token = new_token("read")
    stranger = app.test_client()
    assert stranger.get(CLIENTS, headers=bearer(token)).status_code == 200
    assert client.delete(f"{TOKENS}/{token['id']}").status_code == 204
    answer = stranger.get(CLIENTS, headers=bearer(token))
    problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    problem(client.delete(f"{TOKENS}/{token['id']}"), 404)
    (listed,) = [t for t in client.get(TOKENS).get_json()["items"] if t["id"] == token["id"]]
    assert listed["revoked_at"] is not None


def test_token_revoked_by_another_process_is_rejected_within_5_seconds(
    app: Flask, database: Cursor, new_token: Make
) -> None:
    token = new_token("read")
    stranger = app.test_client()
    assert stranger.get(CLIENTS, headers=bearer(token)).status_code == 200
    database.execute("UPDATE api_tokens SET revoked_at = now() WHERE id = %s", (token["id"],))
    wait_for(
        lambda: stranger.get(CLIENTS, headers=bearer(token)).status_code == 401, 5, "the end of it"
    )


def test_expired_token_is_rejected_at_once(app: Flask, new_token: Make) -> None:
    token = new_token("read", expires_at=ahead(seconds=1))
    stranger = app.test_client()
    assert stranger.get(CLIENTS, headers=bearer(token)).status_code == 200
    wait_for(
        lambda: stranger.get(CLIENTS, headers=bearer(token)).status_code == 401, 2, "the end of it"
    )


def test_last_use_is_stored_once_per_minute(app: Flask, database: Cursor, new_token: Make) -> None:
    token = new_token("read")
    used = "SELECT last_used_at FROM api_tokens WHERE id = %s"
    database.execute(used, (token["id"],))
    assert value(database) is None
    stranger = app.test_client()
    moments = []
    for aged in (0, 0, 61):
        database.execute(
            "UPDATE api_tokens SET last_used_at = last_used_at - %s * interval '1 second'"
            " WHERE id = %s",
            (aged, token["id"]),
        )
        app.extensions["tokens"].clear_cache()
        assert stranger.get(CLIENTS, headers=bearer(token)).status_code == 200
        database.execute(used, (token["id"],))
        moments.append(value(database))
    assert moments[0] == moments[1] < moments[2]


def test_locked_token_row_does_not_delay_requests(
    app: Flask, database_url: str, new_token: Make
) -> None:
    token = new_token("read")
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM api_tokens WHERE id = %s FOR UPDATE", (token["id"],))
        assert app.test_client().get(CLIENTS, headers=bearer(token)).status_code == 200
        cursor.execute("SELECT last_used_at FROM api_tokens WHERE id = %s", (token["id"],))
        assert value(cursor) is None
    connection.close()


def test_valid_token_is_cached(app: Flask, database: Cursor, new_token: Make) -> None:
    token = new_token("read")
    stranger = app.test_client()
    assert stranger.get(CLIENTS, headers=bearer(token)).status_code == 200
    database.execute("UPDATE api_tokens SET scope = 'admin' WHERE id = %s", (token["id"],))
    assert stranger.get(TOKENS, headers=bearer(token)).status_code == 403
    app.extensions["tokens"].clear_cache()
    assert stranger.get(TOKENS, headers=bearer(token)).status_code == 200


def test_log_lines_name_the_actor(
    app: Flask, client: FlaskClient, new_token: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    token = new_token("read")
    capsys.readouterr()
    app.test_client().get(CLIENTS, headers=bearer(token))
    client.get(CLIENTS)
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines()]
    seen = [(x["actor"], x["actor_id"]) for x in lines if x["event"] == "api.request"]
    assert seen == [(f"token:{token['name']}", token["id"]), ("bootstrap", 0)]
    assert token["token"] not in out
    assert TOKEN not in out


def test_commands_create_list_and_revoke_tokens(app: Flask) -> None:
    runner = app.test_cli_runner()

    def run(*arguments: str, ends: int = 0) -> str:
        done = runner.invoke(token_commands, arguments)
        assert done.exit_code == ends, done.output
        return str(done.stdout)

    # The secret and nothing else, so that a script can keep it.
    secret = run("create", "nightly job", "--scope", "write", "--expires", "90d").strip()
    stranger = app.test_client()
    assert stranger.get(CLIENTS, headers=bearer(secret)).status_code == 200
    assert stranger.get(TOKENS, headers=bearer(secret)).status_code == 403
    run("create", "nightly job", "--scope", "write", ends=1)
    run("create", "a\nb", "--scope", "write", ends=1)
    run("create", "other", "--scope", "read", "--expires", "2020-01-01", ends=1)
    for bad in ("yesterday", "0d", "2031-02-30"):
        run("create", "other", "--scope", "read", "--expires", bad, ends=2)
    listed = run("list")
    (line,) = [line for line in listed.splitlines() if "nightly job" in line]
    assert secret[:11] in line
    assert secret not in listed
    assert line.endswith("valid")
    run("revoke", "nightly job")
    run("revoke", "nightly job", ends=1)
    (line,) = [line for line in run("list").splitlines() if "nightly job" in line]
    assert line.endswith("revoked")
    wait_for(lambda: stranger.get(CLIENTS, headers=bearer(secret)).status_code == 401, 5, "its end")


def test_token_commands_require_the_database_only(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "tokens", "create", "x", "--scope", "read"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"nt_[A-Za-z0-9_-]{43}\n", done.stdout)
