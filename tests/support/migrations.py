"""Migrate a database with the product's command."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import COMMAND_SECONDS

ROOT = Path(__file__).parents[2]


def migrate(url: str, *arguments: str) -> str:
    """Run `flask --app api db upgrade`, or another of its subcommands; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "db", *(arguments or ("upgrade",))],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
