"""schemathesis against the whole product: every operation, every check, every phase.

The examples are the same each time; SCHEMATHESIS_SEED chooses others.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import ROOT, TOKEN, System

CONFIGURATION = ROOT / "tests/fuzz/schemathesis.toml"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The product with one dispatcher and a mailing that was sent to five clients."""
    system = System(
        # A budget in money needs the price.
        tmp_path_factory.mktemp("schemathesis"),
        dispatchers=1,
        SEGMENT_PRICE="2.5",
    )
    try:
        system.start()
        system.add_clients(5)
        system.wait_finished(system.create_mailing())
        yield system
    finally:
        system.stop()


@pytest.mark.timeout(900)  # a minute on an idle machine; on a busy one, what it takes
def test_schemathesis_finds_no_failures(system: System, tmp_path: Path) -> None:
    seed = os.environ.get("SCHEMATHESIS_SEED", "1")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)),
            *("run", f"http://127.0.0.1:{system.api_port}/apidoc/openapi.json"),
            *("--seed", seed),
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
    lines = (json.loads(line) for line in system["api"].log.read_text().splitlines())
    assert [line for line in lines if line["level"] == "error"] == []
    system.check_totals()
