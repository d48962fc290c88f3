"""All processes use the time zone rules of the package `tzdata`, whatever the machine has."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from shared.domain.time_zones import RULES_VERSION
from tests.support.waiting import COMMAND_SECONDS
from tests.support.zone_rules import old_rules

# Vancouver stays on summer time from November 2026: 17:00 UTC is 10:00, and 9:00 by older rules.
READ_CLOCK = """
from datetime import UTC, datetime
from zoneinfo import ZoneInfo
print(datetime(2026, 12, 1, 17, tzinfo=UTC).astimezone(ZoneInfo("America/Vancouver")).hour)
"""


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        (sys.executable, "-c", code),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["worker.runtime.clock", "api.cursors", "shared.report.days"])
def test_processes_ignore_the_rules_of_the_machine(package: str) -> None:
    with old_rules() as folder:
        rules = str(folder)
        assert run_python(READ_CLOCK, PYTHONTZPATH=rules) == "9"  # what Python itself would do
        assert run_python(f"import {package}\n{READ_CLOCK}", PYTHONTZPATH=rules) == "10"


def test_version_is_that_of_the_pinned_package() -> None:
    pinned = next(
        line.removeprefix("tzdata==")
        for line in (Path(__file__).parents[3] / "requirements.txt").read_text().splitlines()
        if line.startswith("tzdata==")
    )
    assert version("tzdata") == pinned
    year, number = map(int, pinned.split("."))
    assert f"{year}{chr(ord('a') + number - 1)}" == RULES_VERSION
