"""One running system for all scenarios of a test process, a witness for each, and their table."""

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import requests

from tests.chaos.assertions import Verdict
from tests.chaos.observer import Witness
from tests.chaos.run_options import LONG, SEED, dice
from tests.support.system import System
from tests.support.waiting import wait_for

CONCURRENCY = 32
SETTINGS = {
    "PROVIDER_TIMEOUT": 2,  # leases of 12 s
    "PROVIDER_CONCURRENCY": CONCURRENCY,
    "BATCH_SIZE": 100,
    "MAX_ATTEMPTS": 50,
}

COMPLAINT = r'^.*(?:"level": ?"error"|Traceback).*$'
# What RQ says of a job that ended after Redis had lost it.
FORGOTTEN = "Failed to retrieve status for job"

Watch = Callable[[str], AbstractContextManager[Witness]]
_table: list[Verdict] = []


@pytest.fixture(scope="session")
def chaos_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(Path(tmp_path_factory.mktemp("chaos")), dispatchers=2, **SETTINGS)
    try:
        yield system.start()
    finally:
        system.stop()


@pytest.fixture
def system(chaos_system: System, request: pytest.FixtureRequest) -> Iterator[System]:
    """The shared system, well at the beginning and at the end."""
    calm(chaos_system)
    sizes = {name: p.log.stat().st_size for name, p in chaos_system.processes.items()}
    yield chaos_system
    if request.node.stash.get(_FAILED, False):
        return
    dead = [name for name, process in chaos_system.processes.items() if not process.running]
    assert not dead, f"ended by themselves: {dead}"
    for name, process in chaos_system.processes.items():
        with process.log.open("rb") as log:
            log.seek(sizes.get(name, 0))
            said = log.read().decode(errors="replace")
        errors = [e for e in re.findall(COMPLAINT, said, re.MULTILINE) if FORGOTTEN not in e]
        assert not errors, f"{name} complained: {errors[:3]}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Random:
    """The scenario's own chance, repeatable by CHAOS_SEED."""
    return dice(request.node.name)


@pytest.fixture
def watch(system: System, request: pytest.FixtureRequest) -> Watch:
    """Gives a witness that watches a scenario; its verdict goes into the table."""

    @contextmanager
    def watching(fault: str) -> Iterator[Witness]:
        witness = Witness(system, fault, CONCURRENCY)
        try:
            with witness:
                yield witness
        finally:
            _table.append(witness.verdict)
            _write_table(request)

    return watching


def calm(system: System) -> None:
    """Whatever a failed scenario left: services and processes up, nothing unsettled."""
    system.postgres.start()
    system.valkey.start()
    for process in system.processes.values():
        process.thaw()
        if not process.running:
            process.start()
    wait_for(system.provider_ready, 20, "the provider")
    wait_for(system.api_ready, 30, "the API")
    system.provider.reset()
    unsettled = "SELECT id FROM mailings WHERE NOT settled"
    for (mailing_id,) in system.query(unsettled):
        try:
            system.call("POST", f"/mailings/{mailing_id}/cancel")
        except (AssertionError, requests.RequestException):
            continue
    wait_for(lambda: not system.query(unsettled), 60, "earlier mailings to be settled")


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
        report.sections.append(("chaos", f"repeat with CHAOS_SEED={SEED}"))
    return report


def _write_table(request: pytest.FixtureRequest) -> None:
    """A file besides: under xdist the terminal belongs to another process."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    lines = [json.dumps(asdict(verdict), ensure_ascii=False) for verdict in _table]
    (factory.getbasetemp() / "chaos.jsonl").write_text("\n".join([*lines, ""]))


def pytest_report_header() -> str:
    return f"chaos: {'long' if LONG else 'short'} form, CHAOS_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _table:
        return
    terminalreporter.section(f"what chaos did (CHAOS_SEED={SEED})")
    head = ("audience", "lost", "duplicated", "late", "silence s", "recovery s")
    terminalreporter.write_line(f"{'fault':58}" + "".join(f"{name:>11}" for name in head))
    for v in _table:
        recovery = "" if v.recovery_s is None else f"{v.recovery_s:.1f}"
        cells = (v.audience, v.lost, v.duplicated, v.late, f"{v.silence_s:.1f}", recovery)
        line = f"{v.fault:58}" + "".join(f"{cell:>11}" for cell in cells)
        notes = ", ".join(f"{name}: {value}" for name, value in v.notes.items())
        terminalreporter.write_line(f"{line}  {notes}")
