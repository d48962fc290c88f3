"""The walkthroughs of the documentation, run as a newcomer would run them."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

from tests.support.system import ROOT, TOKEN, System
from tests.support.waiting import wait_for

EXAMPLES = ROOT / "docs" / "examples"
COMMANDS = {
    "curl": ["sh", str(EXAMPLES / "walkthrough.sh")],
    "python": [sys.executable, str(EXAMPLES / "walkthrough.py")],
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_walkthrough_shows_the_whole_life_of_a_mailing(system: System, kind: str) -> None:
    if kind == "curl" and not (shutil.which("jq") and shutil.which("curl")):
        pytest.skip("needs curl and jq")
    # The provider refuses the three messages once, so that there is something to try again.
    system.provider.reset()
    system.provider.set(faults={"reject_400": 1.0})
    over = threading.Event()
    mended = threading.Thread(target=mend, args=(system, over))
    mended.start()
    done = subprocess.run(
        COMMANDS[kind],
        env={
            **os.environ,
            "API": f"http://127.0.0.1:{system.api_port}/api/v1",
            "TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    over.set()
    mended.join()
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


def mend(system: System, over: threading.Event) -> None:
    """Let the provider accept again as soon as it has refused all three."""
    wait_for(lambda: over.is_set() or len(list(system.provider.requests())) >= 3, 100)
    system.provider.set(faults={})
