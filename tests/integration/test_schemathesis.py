"""schemathesis against the API under gunicorn: every operation, every check, every phase."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import Fleet
from tests.integration.conftest import TOKEN
from tests.integration.test_api_server import Server
from tests.system import ROOT, free_port
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def server(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The API, with a mailing that was launched to five clients."""
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "API_BOOTSTRAP_TOKEN": TOKEN,
        "SECRET_KEY": "test-secret-key-0123456789",
        "API_BIND": f"127.0.0.1:{free_port()}",
        "WEB_CONCURRENCY": "1",
    }
    fleet = Fleet(database_url)
    fleet.new_mailing(count=5)
    fleet.close()
    server = Server(settings, tmp_path_factory.mktemp("schemathesis"))
    server.process.start()
    try:
        wait_for(server.ready, 30, "the API")
        yield server
    finally:
        server.process.kill()


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    seed = os.environ.get("SCHEMATHESIS_SEED")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(ROOT / "tests/fuzz/schemathesis.toml")),
            *("run", f"{server.url}/apidoc/openapi.json"),
            *(("--seed", seed) if seed else ()),
        ],
        cwd=tmp_path,  # where it keeps what it has learned
        env={
            **os.environ,
            "API_TOKEN": TOKEN,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested:" in done.stdout, done.stdout
    defects = [line for line in server.log() if line["level"] == "error"]
    assert not defects
