"""Back up and restore PostgreSQL with the commands of docs/operations.md, during mailings."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from dev.stack.binaries import postgres_bin
from tests.support.system import ROOT, System
from tests.support.waiting import wait_for

RESTORED = "notifications_restored"
SLOW = {"min": 0.05, "max": 0.1}
LARGE = 400


def documented_commands(heading: str) -> str:
    """Return the commands of the documentation under this heading."""
    page = (ROOT / "docs" / "operations.md").read_text()
    part = re.search(rf"^### {heading}\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    assert part, f"docs/operations.md has no section {heading!r}"
    block = re.search(r"^```\n(.*?)^```$", part[1], re.MULTILINE | re.DOTALL)
    assert block, f"docs/operations.md has no documented_commands under {heading!r}"
    return block[1]


def run_commands(system: System, heading: str, directory: Path) -> str:
    paths = (postgres_bin(None), Path(sys.executable).parent, os.environ["PATH"])
    done = subprocess.run(
        ["/bin/sh", "-euxc", documented_commands(heading)],
        cwd=directory,
        env={
            **os.environ,
            **system.environment,
            "PATH": ":".join(map(str, paths)),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def slow_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = Path(tmp_path_factory.mktemp("backup"))
    system = System(directory, dispatchers=1, PROVIDER_TIMEOUT=1, PROVIDER_CONCURRENCY=8)
    try:
        yield system.start()
    finally:
        system.stop()


def test_a_restored_backup_continues_from_its_state(slow_system: System, tmp_path: Path) -> None:
    system = slow_system
    system.provider.set(latency=SLOW)
    for tag, number in (("done", 20), ("running", LARGE), ("paused", LARGE), ("later", 20)):
        system.add_clients(number, tag)
    done = system.create_mailing(filter={"tags": ["done"]})
    system.wait_finished(done)
    running, paused = (
        system.create_mailing(filter={"tags": [tag]}, rate_limit=60)
        for tag in ("running", "paused")
    )
    later = system.create_mailing(starts_in=600, filter={"tags": ["later"]})
    wait_for(
        lambda: system.statistics(paused)["counts"]["sent"] > 10,
        30,
        "the paused mailing has started",
    )
    system.call("POST", f"/mailings/{paused}/pause")
    wait_for(
        lambda: system.statistics(running)["counts"]["sent"] > 30, 30, "the other mailing continues"
    )

    run_commands(system, "Back up", tmp_path)

    # More messages are sent, and what is created after the backup will be lost.
    at = system.statistics(running)["counts"]["sent"]
    wait_for(
        lambda: system.statistics(running)["counts"]["sent"] > at + 30, 30, "more messages are sent"
    )
    system.add_clients(20, "lost")
    lost = system.create_mailing(filter={"tags": ["lost"]})
    system.wait_finished(lost)
    for name, process in system.processes.items():
        if name != "provider":
            process.kill()
    Redis.from_url(system.valkey.url).flushall()
    before = set(system.provider.accepted_ids())

    run_commands(system, "Restore", tmp_path)
    system.postgres.database = RESTORED  # the database in DATABASE_URL from now on

    system.check_totals()
    system.provider.set(latency=0)
    for process in system.processes.values():
        process.env = system.environment
        if not process.running:
            process.start()
    wait_for(system.api_ready, 90, "the API")
    assert system.statistics(done)["counts"]["sent"] == 20
    assert system.call("GET", f"/mailings/{paused}")["status"] == "paused"
    assert system.call("GET", f"/mailings/{later}")["status"] == "scheduled"
    system.call("GET", f"/mailings/{lost}", expect=404)
    system.call("POST", f"/mailings/{paused}/resume")
    system.call("PATCH", f"/mailings/{paused}", json={"rate_limit": None})
    system.call("PATCH", f"/mailings/{running}", json={"rate_limit": None})
    system.call("POST", f"/mailings/{later}/start")
    for mailing, number in ((running, LARGE), (paused, LARGE), (later, 20)):
        end = system.wait_finished(mailing)
        assert end["counts"]["sent"] == end["audience"] == number, end
    # Ids that the provider accepted after the backup are not used for other messages.
    system.add_clients(20, "new")
    new = system.create_mailing(filter={"tags": ["new"]})
    system.wait_finished(new)
    ids = {row[0] for row in system.query("SELECT id FROM messages WHERE mailing_id = %s", new)}
    assert len(ids) == 20
    assert not ids & before
    # All clients of the four mailings got a message under one id; so did the 20 of the lost one.
    accepted = set(system.provider.accepted_ids())
    assert len(accepted) == 20 + LARGE + LARGE + 20 + 20 + 20
    system.check_totals()
