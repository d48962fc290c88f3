"""docs/api.md and docs/tasks: their blocks, pasted into one shell in order, do what the page says.

The page of the API comes first: it begins with a service without data.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require_program
from tests.support.system import ROOT, TOKEN, System
from tests.support.waiting import wait_for

API_PAGE = ROOT / "docs" / "api.md"
TASKS = ROOT / "docs" / "tasks"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_blocks(page: Path, language: str = "sh") -> list[str]:
    """Return the blocks of a page in a language: `sh` for a shell, `json` for an answer."""
    blocks = BLOCK.findall(page.read_text())
    assert {name for name, _ in blocks} <= {"sh", "json"}, f"{page.name}: a block that cannot run"
    return [text for name, text in blocks if name == language]


def paste(page: Path, system: System, directory: Path) -> str:
    """Run the blocks of a page in a shell that stops at the first error; return their output."""
    for program in ("curl", "jq"):
        require_program(program)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(read_blocks(page))],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": system.database_url,
            "API": f"http://127.0.0.1:{system.api_port}/api/v1",
            "TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "curl:" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def accepting_provider(system: System) -> None:
    system.provider.reset()


def test_the_page_of_the_api(system: System, tmp_path: Path) -> None:
    shown = paste(API_PAGE, system, tmp_path)
    for expected in (
        '"name":"Spring sale"',  # the mailing
        '"rejected":1',  # of the imported file
        "5,79167654321,916,vip",  # the export
        "79161234568,letter",  # the list of opt-outs
        '"outcome":"accepted"',  # of the test send
        '"rows_total":20000',  # of the larger trial
    ):
        assert expected in shown, shown
    (trial,) = system.call("GET", "/mailings")["items"]
    assert system.wait_finished(trial["id"])["counts"]["sent"] == 4000


def test_the_problem_in_the_page_of_the_api(system: System) -> None:
    (written,) = read_blocks(API_PAGE, "json")
    documented = json.loads(written)
    body = {"phone": "916", "timezone": "Europe/Moscow"}
    answer = system.call("POST", "/clients", json=body, expect=422)
    assert answer | {"request_id": documented["request_id"]} == documented


def test_every_page_is_run() -> None:
    assert {page.name for page in TASKS.glob("*.md")} == {
        "import-nightly.md",
        "send-to-a-list.md",
        "send-again-to-the-failed.md",
    }


def test_import_nightly(system: System, tmp_path: Path) -> None:
    shown = paste(TASKS / "import-nightly.md", system, tmp_path)
    assert '{"status":"finished","created":2,"updated":0,"unchanged":0,"rejected":1}' in shown
    assert "12345" in shown
    assert "11 digits" in shown
    again = paste(TASKS / "import-nightly.md", system, tmp_path)
    assert '{"status":"finished","created":0,"updated":0,"unchanged":2,"rejected":1}' in again


def test_send_to_a_list(system: System, tmp_path: Path) -> None:
    shown = paste(TASKS / "send-to-a-list.md", system, tmp_path)
    assert '"audience":2' in shown
    assert '"status":"finished"' in shown
    assert '"sent":2' in shown
    assert len(system.provider.accepted_ids()) == 2
    system.check_totals()


def test_send_again_to_the_failed(system: System, tmp_path: Path) -> None:
    system.add_clients(3, tag="again")
    system.provider.set(faults={"reject_400": 1.0})
    mailing = system.create_mailing(filter={"tags": ["again"]})
    assert system.wait_finished(mailing)["counts"]["failed"] == 3
    system.provider.set(faults={})
    shown = paste(TASKS / "send-again-to-the-failed.md", system, tmp_path)
    assert '"messages":3' in shown
    assert '"failed":0' in shown
    assert wait_for(lambda: len(system.provider.accepted_ids()) == 3, 30)
    system.check_totals()
