"""One running system for all scenarios of a test process, and the table of their results."""

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import requests

from tests.chaos.assertions import ScenarioResult
from tests.chaos.observer import Observer
from tests.chaos.run_options import LONG, SEED, scenario_random
from tests.support.system import System
from tests.support.waiting import wait_for

CONCURRENCY = 32
SETTINGS = {
    "PROVIDER_TIMEOUT": 2,  # leases of 12 s
    "PROVIDER_CONCURRENCY": CONCURRENCY,
    "BATCH_SIZE": 100,
    "MAX_ATTEMPTS": 50,
}

ERROR_LINE = r'^.*(?:"level": ?"error"|Traceback).*$'
# RQ logs this for a job that ended after Redis had lost it.
LOST_JOB = "Failed to retrieve status for job"

Observe = Callable[[str], AbstractContextManager[Observer]]
_results: list[ScenarioResult] = []


@pytest.fixture(scope="session")
def chaos_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(Path(tmp_path_factory.mktemp("chaos")), dispatchers=2, **SETTINGS)
    try:
        yield system.start()
    finally:
        system.stop()


@pytest.fixture
def system(chaos_system: System, request: pytest.FixtureRequest) -> Iterator[System]:
    """The shared system: restored before the scenario, running without errors after it."""
    restore_system(chaos_system)
    sizes = {name: p.log.stat().st_size for name, p in chaos_system.processes.items()}
    yield chaos_system
    if not has_failed(request):
        check_processes(chaos_system, sizes)


def has_failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(_FAILED, False))


def check_processes(system: System, log_sizes: dict[str, int]) -> None:
    """Assert that all processes run, and that none has logged an error after these log sizes."""
    ended = [name for name, process in system.processes.items() if not process.running]
    assert not ended, f"processes ended by themselves: {ended}"
    for name, process in system.processes.items():
        with process.log.open("rb") as log:
            log.seek(log_sizes.get(name, 0))
            output = log.read().decode(errors="replace")
        errors = [e for e in re.findall(ERROR_LINE, output, re.MULTILINE) if LOST_JOB not in e]
        assert not errors, f"{name} logged errors: {errors[:3]}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Random:
    """The scenario's own random generator, repeatable by CHAOS_SEED."""
    return scenario_random(request.node.name)


@pytest.fixture
def observe(system: System, request: pytest.FixtureRequest) -> Observe:
    """Return a context manager that observes a scenario and adds its result to the table."""

    @contextmanager
    def observing(fault: str) -> Iterator[Observer]:
        observer = Observer(system, fault, CONCURRENCY)
        try:
            with observer:
                yield observer
        finally:
            _results.append(observer.result)
            _write_table(request)

    return observing


def restore_system(system: System) -> None:
    """Start what a scenario stopped, clear the provider and the policy, settle its mailings."""
    system.postgres.start()
    system.valkey.start()
    for process in system.processes.values():
        process.thaw()
        if not process.running:
            process.start()
    wait_for(system.provider_ready, 90, "the provider")
    wait_for(system.api_ready, 90, "the API")
    system.provider.reset()
    system.call("POST", "/policy/resume")
    system.call("PUT", "/policy", json={}, headers={"If-Match": "*"})
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
    """Write the table to a file as well: under xdist another process owns the terminal."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    lines = [json.dumps(asdict(result), ensure_ascii=False) for result in _results]
    (factory.getbasetemp() / "chaos.jsonl").write_text("\n".join([*lines, ""]))


def pytest_report_header() -> str:
    return f"chaos: {'long' if LONG else 'short'} form, CHAOS_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _results:
        return
    terminalreporter.section(f"effects of the chaos scenarios (CHAOS_SEED={SEED})")
    head = ("audience", "lost", "duplicated", "late", "silence s", "recovery s")
    terminalreporter.write_line(f"{'fault':58}" + "".join(f"{name:>11}" for name in head))
    for v in _results:
        recovery = "" if v.recovery_s is None else f"{v.recovery_s:.1f}"
        cells = (v.audience, v.lost, v.duplicated, v.late, f"{v.silence_s:.1f}", recovery)
        line = f"{v.fault:58}" + "".join(f"{cell:>11}" for cell in cells)
        details = ", ".join(f"{name}: {value}" for name, value in v.details.items())
        terminalreporter.write_line(f"{line}  {details}")
