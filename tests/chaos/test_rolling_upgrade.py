"""A version is replaced by this one, process by process, while messages are being sent.

The previous version runs its own code on this version's schema, as during a rolling upgrade. It is
taken from the history of the repository; a checkout without that history has its first commit
instead.
"""

import io
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from dev.stack.ports import free_port
from dev.stack.services import Postgres
from tests.support.invariants import assert_totals, find_wrong_totals
from tests.support.system import ROOT, TOKEN, Process, System, rfc3339
from tests.support.waiting import wait_for

# 24 November 2026: the last commit with the schema 0006, without sweep workers and journals.
PREVIOUS = "89f8291"
CLIENTS = 1_200
# What the budget has counted, and what was sent in its month; each message has one segment.
CHARGED = """
SELECT (SELECT sum(segments) FROM budget_days WHERE mailing_id = 0),
    (SELECT count(*) FROM messages, budgets b WHERE b.mailing_id = 0 AND status = 'sent'
        AND sent_at >= date_trunc('month', now() AT TIME ZONE b.timezone) AT TIME ZONE b.timezone)
"""
RATE = 400  # messages a second, so that a mailing lasts longer than the upgrade of a worker


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def previous_revision() -> str:
    if git("cat-file", "-t", PREVIOUS).strip() == b"commit":
        return PREVIOUS
    return git("rev-list", "--max-parents=0", "HEAD").decode().split()[0]


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The code of the previous version."""
    checkout = tmp_path / "previous"
    archive = git("archive", previous_revision(), "api", "worker", "shared", "dev")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(checkout, filter="data")
    return checkout


class Upgrade:
    """The product in the previous version, whose processes are replaced by new ones."""

    def __init__(self, system: System, previous: Path) -> None:
        self.system, self._previous = system, previous
        self.api_ports = {"old": system.api_port, "new": free_port()}
        self.processes: dict[str, Process] = {}

    def start_old(self) -> None:
        system = self.system
        system.postgres.start()
        system.valkey.start()
        self._start(
            "provider",
            "new",
            "dev.provider",
            "--port",
            str(system.provider_port),
            "--token",
            system.environment["PROVIDER_TOKEN"],
        )
        command = [sys.executable, "-m", "flask", "--app", "api", "db", "upgrade"]
        environment = {**system.environment, "PATH": "/usr/bin:/bin"}
        subprocess.run(
            command, cwd=self._previous, env=environment, check=True, capture_output=True
        )
        self._start("api", "old", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()")
        for name, role in (
            ("scheduler", "scheduler"),
            ("control", "control"),
            ("dispatch-1", "dispatch"),
            ("dispatch-2", "dispatch"),
        ):
            self._start(name, "old", "worker", role)
        wait_for(system.provider_ready, 90, "the provider")
        wait_for(lambda: self.is_ready("old"), 60, "the old API")

    def _start(self, name: str, version: str, *arguments: str) -> None:
        environment = dict(self.system.environment)
        environment["API_BIND"] = f"127.0.0.1:{self.api_ports[version]}"
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(self.system.directory / f"metrics-{version}")
        argv = [sys.executable, "-m", *arguments]
        log = self.system.directory / f"{name}-{version}.log"
        cwd = self._previous if version == "old" else ROOT
        self.processes[f"{name} {version}"] = process = Process(name, argv, environment, log, cwd)
        process.start()

    def replace(self, name: str, role: str) -> None:
        """Start a worker of the new version, then stop the old one, as a Deployment does."""
        self._start(name, "new", "worker", role)
        old = self.processes[f"{name} old"]
        assert old.running, old.log.read_text()[-2000:]
        assert old.stop(30) is not None

    def start_new(self, name: str, *arguments: str) -> None:
        self._start(name, "new", *arguments)

    def is_ready(self, version: str) -> bool:
        url = f"http://127.0.0.1:{self.api_ports[version]}/readyz"
        try:
            return requests.get(url, timeout=5).ok
        except requests.RequestException:
            return False

    def create_mailing(self, version: str) -> int:
        now = time.time()
        body = {
            "text": f"by the {version} API",
            "start_at": rfc3339(now),
            "end_at": rfc3339(now + 3600),
        }
        url = f"http://127.0.0.1:{self.api_ports[version]}/api/v1/mailings"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = requests.post(url, json=body, headers=headers, timeout=30)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def put_budget(self, segments: int) -> requests.Response:
        """Ask the new API for a budget of so many segments a month."""
        url = f"http://127.0.0.1:{self.api_ports['new']}/api/v1/policy"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        headers["If-Match"] = requests.get(url, headers=headers, timeout=30).headers["ETag"]
        body = {"budget": {"month": {"segments": segments}}}
        return requests.put(url, json=body, headers=headers, timeout=30)

    def wait_for_requests(self, mailings: int) -> None:
        """Wait until the latest of so many mailings is being sent."""
        wanted = (mailings - 1) * CLIENTS + 100
        requested = self.system.provider.requests
        wait_for(lambda: sum(1 for _ in requested()) > wanted, 60, f"mailing {mailings} to be sent")

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.system.http.close()
        self.system.provider.close()
        self.system.valkey.remove()
        self.system.postgres.remove()


@pytest.fixture
def upgrade(tmp_path: Path, previous: Path) -> Iterator[Upgrade]:
    system = System(tmp_path / "system", PROVIDER_RATE=RATE)
    system.postgres = Postgres(tmp_path / "postgres")  # whose schema is the old one at first
    upgrade = Upgrade(system, previous)
    try:
        upgrade.start_old()
        yield upgrade
    finally:
        upgrade.stop()


def test_a_rolling_upgrade_under_load_loses_and_repeats_nothing(upgrade: Upgrade) -> None:
    system = upgrade.system
    system.add_clients(CLIENTS)
    mailings = [upgrade.create_mailing("old")]
    upgrade.wait_for_requests(len(mailings))
    # The new API's pods migrate first; old workers go on with the new schema.
    system.run("flask", "--app", "api", "db", "upgrade")
    mailings.append(upgrade.create_mailing("old"))
    upgrade.wait_for_requests(len(mailings))
    upgrade.start_new("api", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()")
    wait_for(lambda: upgrade.is_ready("new"), 60, "the new API")
    # Old workers would send beyond a budget, so none can be set while they run.
    assert upgrade.put_budget(CLIENTS).json()["code"] == "workers_outdated"
    # Each worker is replaced while a mailing of the new API is being sent.
    for name, role in (
        ("dispatch-1", "dispatch"),
        ("control", "control"),
        ("dispatch-2", "dispatch"),
    ):
        mailings.append(upgrade.create_mailing("new"))
        upgrade.wait_for_requests(len(mailings))
        upgrade.replace(name, role)
    upgrade.start_new("sweep", "worker", "sweep")
    upgrade.replace("scheduler", "scheduler")
    assert upgrade.processes["api old"].stop(30) is not None
    system.api_port = upgrade.api_ports["new"]
    mailings.append(upgrade.create_mailing("new"))
    for mailing in mailings:
        done = system.wait_finished(mailing, 120)
        assert done["counts"]["sent"] == done["audience"] == CLIENTS
    assert upgrade.put_budget(10**6).status_code == 200
    with system.database() as cursor:
        cursor.execute(CHARGED)
        (counted,) = cursor.fetchall()
        assert counted[0] == counted[1]  # by old workers, too
        # Workers of the previous version do not count segments.
        wrong = [
            (mailing, what, counted, stored)
            for mailing, what, counted, stored in find_wrong_totals(cursor)
            if "segments" not in what and not (what.startswith("batch ") and counted == stored)
        ]
    assert_totals(wrong)
    requests_by_message = Counter(row["id"] for row in system.provider.requests())
    assert len(requests_by_message) == CLIENTS * len(mailings)
    assert set(requests_by_message.values()) == {1}
