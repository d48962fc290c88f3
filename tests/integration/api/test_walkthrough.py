"""The examples in docs/examples, run as a reader would run them."""

import os
import subprocess
import sys
import threading

import pytest

from dev.stack.greeting import try_it_commands
from tests.support.programs import require_program
from tests.support.system import ROOT, TOKEN, System
from tests.support.waiting import wait_for

EXAMPLES = ROOT / "docs" / "examples"
COMMANDS = {
    "curl": ["sh", str(EXAMPLES / "walkthrough.sh")],
    "python": [sys.executable, str(EXAMPLES / "walkthrough.py")],
}


def run_example(command: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("kind", COMMANDS)
def test_walkthrough_shows_the_whole_life_of_a_mailing(system: System, kind: str) -> None:
    if kind == "curl":
        require_program("curl")
        require_program("jq")
    # The provider rejects the three messages once, so that there is something to retry.
    system.provider.reset()
    system.provider.set(faults={"reject_400": 1.0})
    finished = threading.Event()
    accepting = threading.Thread(target=accept_after_rejections, args=(system, finished))
    accepting.start()
    api = f"http://127.0.0.1:{system.api_port}/api/v1"
    done = run_example(COMMANDS[kind], API=api, TOKEN=TOKEN)
    finished.set()
    accepting.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("done"), done.stdout
    for step in range(1, 9):
        assert f"== {step}. " in done.stdout
    retried = done.stdout.split("== 7. ")[1]
    assert "nothing has failed" not in retried
    assert len(system.provider.accepted_ids()) == 3
    for path in ("/mailings", "/clients"):
        assert system.call("GET", path)["items"] == []
    system.check_totals()


def accept_after_rejections(system: System, finished: threading.Event) -> None:
    """Let the provider accept again once it has rejected all three messages."""
    wait_for(lambda: finished.is_set() or len(list(system.provider.requests())) >= 3, 100)
    system.provider.set(faults={})


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_try_it_commands_send_a_first_mailing(system: System, shell: str) -> None:
    """The commands of the README and the greeting, pasted into a shell."""
    require_program("curl")
    system.provider.reset()
    done = run_example([shell, "-c", try_it_commands(system.api_port, TOKEN)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert '"name":"First"' in done.stdout
    wait_for(lambda: len(system.provider.accepted_ids()) == 1, 30)
    mailing = system.call("GET", "/mailings")["items"][0]
    system.wait_finished(mailing["id"])
    for path in (
        f"/mailings/{mailing['id']}",
        *(f"/clients/{client['id']}" for client in system.call("GET", "/clients")["items"]),
    ):
        system.call("DELETE", path)
