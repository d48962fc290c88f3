"""The local stack: its supervisor (with shell scripts as programs), settings and terminal."""

import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dev.mail import MailStore
from dev.stack.__main__ import lock_directory
from dev.stack.files import memory_folder, remove_memory_folder
from dev.stack.ports import free_port
from dev.stack.processes import find_by_environment, is_running
from dev.stack.supervisor import MARK
from dev.stack.terminal import LogFollower, Terminal, summarise
from tests.support.waiting import COMMAND_SECONDS

# Each program writes its pid (and that of its child) to a file in its folder and then waits.
_WAIT = 'echo $$ >> "$0"; sleep 600 & echo $! >> "$0"; wait'
_IGNORES_SIGTERM = 'trap "" TERM; echo $$ >> "$0"; while :; do sleep 0.1; done'
_STACK = """
import sys
from pathlib import Path
from dev.stack.processes import Program
from dev.stack.supervisor import StopRequested, Supervisor
from dev.stack.terminal import Terminal
directory, scripts = Path(sys.argv[1]), sys.argv[2:]
supervisor = Supervisor(directory, Terminal())
supervisor.catch_signals()
try:
    supervisor.stop_leftovers(seconds=1.0)
    supervisor.start_programs([
        Program(name=f"p{i}", argv=["/bin/sh", "-c", script, str(directory / f"p{i}.pids")],
                stage=i, stop_seconds=1.0)
        for i, script in enumerate(scripts)
    ])
    print("up", flush=True)
    supervisor.watch()
except StopRequested:
    pass
finally:
    supervisor.stop()
"""


class Stack:
    """A supervisor with the given shell scripts as its programs, in a process of its own."""

    def __init__(self, directory: Path, *scripts: str) -> None:
        self.directory = directory
        self.output = directory / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _STACK, str(directory), *scripts],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_up(self) -> None:
        wait_for(lambda: "up\n" in self.output.read_text())

    def pids(self, number: int, count: int) -> list[int]:
        """Return the pids that a program has written, once there are that many."""
        path = self.directory / f"p{number}.pids"
        wait_for(lambda: path.exists() and path.read_text().count("\n") >= count)
        return [int(line) for line in path.read_text().split()]

    def leftovers(self) -> list[int]:
        return find_pids(self.directory)


def find_pids(directory: Path) -> list[int]:
    """Return the pids of the processes that carry the mark of this folder's stack."""
    return [process.pid for process, _ in find_by_environment(MARK, str(directory))]


def pid_runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_running(psutil.Process(pid))


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    started: list[Stack] = []

    def make(*scripts: str) -> Stack:
        started.append(Stack(tmp_path, *scripts))
        started[-1].wait_up()
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()
    for pid in find_pids(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_dead_program_is_restarted(stack: Callable[..., Stack]) -> None:
    running = stack(_WAIT, _WAIT)
    first, child_pid = running.pids(0, 2)
    os.kill(first, signal.SIGKILL)
    again = running.pids(0, 4)[2]
    assert pid_runs(again)
    assert not pid_runs(child_pid)  # or it would keep the port of its successor
    reports = [line for line in running.output.read_text().splitlines() if "p0 died" in line]
    assert len(reports) == 1
    assert "killed by SIGKILL" in reports[0]
    assert len(running.pids(1, 2)) == 2  # the other one was not restarted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopping_leaves_no_process(stack: Callable[..., Stack], number: signal.Signals) -> None:
    running = stack(_WAIT, _WAIT)
    pids = running.pids(0, 2) + running.pids(1, 2)
    running.process.send_signal(number)
    assert running.process.wait(10) == 0
    assert [pid for pid in pids if pid_runs(pid)] == []
    assert running.leftovers() == []


def test_last_stage_stops_first(stack: Callable[..., Stack]) -> None:
    slow = 'trap "sleep 0.3; echo bye from the worker; exit" TERM; echo $$ >> "$0"; ' + (
        "while :; do sleep 0.05; done"
    )
    base = 'trap "echo bye from the database; exit" TERM; echo $$ >> "$0"; ' + (
        "while :; do sleep 0.05; done"
    )
    running = stack(base, slow)
    running.pids(0, 1), running.pids(1, 1)
    running.process.terminate()
    running.process.wait(10)
    byes = re.findall(r"bye from the (\w+)", running.output.read_text())
    assert byes == ["worker", "database"]


def test_program_that_ignores_sigterm_is_killed(stack: Callable[..., Stack]) -> None:
    running = stack(_IGNORES_SIGTERM)
    (pid,) = running.pids(0, 1)
    began = time.monotonic()
    running.process.terminate()
    assert running.process.wait(10) == 0
    assert 0.9 < time.monotonic() - began < 4
    assert not pid_runs(pid)


def test_next_run_stops_what_a_killed_supervisor_left(stack: Callable[..., Stack]) -> None:
    running = stack(_WAIT, _IGNORES_SIGTERM)
    left = running.pids(0, 2) + running.pids(1, 1)
    running.process.kill()
    running.process.wait()
    running.output.unlink()
    following = stack(_WAIT)
    assert [pid for pid in left if pid_runs(pid)] == []
    assert [pid for pid in following.pids(0, 4)[2:] if not pid_runs(pid)] == []
    assert "that the last run left behind" in following.output.read_text()


def test_processes_of_another_stack_are_left_alone(
    stack: Callable[..., Stack], tmp_path: Path
) -> None:
    environment = {**os.environ, MARK: str(tmp_path / "another")}
    other = subprocess.Popen(["sleep", "60"], env=environment)
    try:
        stack(_WAIT).pids(0, 2)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def run_stack(directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "LOCAL_DIR": str(directory), **variables}
    for name in ("DATABASE_URL", "REDIS_URL", "PROVIDER_URL", "OIDC_ISSUER"):
        if name not in variables:
            env.pop(name, None)
    command = [sys.executable, "-m", "dev.stack", "run"]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )


@pytest.mark.parametrize("name", ["API_PORT", "PROVIDER_PORT", "OPENID_PORT"])
def test_taken_port_is_named_before_anything_starts(tmp_path: Path, name: str) -> None:
    names = ("API_PORT", "PROVIDER_PORT", "OPENID_PORT")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {each: str(free_port()) for each in names} | {name: str(port)}
        ended = run_stack(tmp_path, **ports)
    assert ended.returncode == 1
    assert ended.stderr == f"port {port} is taken: set {name} to another one\n"
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(
    ("variables", "expected_message"),
    [
        ({"API_PORT": "http"}, "API_PORT is 'http': it must be a number from 1 to 65535\n"),
        ({"DISPATCH_WORKERS": "0"}, "DISPATCH_WORKERS is '0': it must be a number from 1 to 64\n"),
        (
            {"PROVIDER_URL": "http://127.0.0.1:1", "PROVIDER_TOKEN": ""},
            "PROVIDER_URL is set: set PROVIDER_TOKEN too, to that provider's token\n",
        ),
    ],
)
def test_invalid_variable_is_named(
    tmp_path: Path, variables: dict[str, str], expected_message: str
) -> None:
    ended = run_stack(tmp_path, **variables)
    assert (ended.returncode, ended.stderr) == (1, expected_message)


def test_second_stack_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path)
    try:
        ended = run_stack(tmp_path)
    finally:
        os.close(lock)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"a stack already runs in {tmp_path} (pid {os.getpid()}):"
        " stop it, or set LOCAL_DIR to another folder\n"
    )


def test_terminal_prints_only_the_last_line_of_a_traceback(tmp_path: Path) -> None:
    output, log = io.StringIO(), tmp_path / "log"
    follower = LogFollower("api", log, Terminal(output))
    log.write_text(
        "before\n"
        "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "Traceback (most recent call last):\n  File y\nValueError: b\n"
        "after\n"
    )
    follower.follow()
    texts = [line.partition("| ")[2] for line in output.getvalue().splitlines()]
    assert texts == ["before", "KeyError: 'a'", "ValueError: b", "after"]


def test_terminal_hides_routine_log_records() -> None:
    def line(**fields: object) -> str:
        return json.dumps({"ts": "2026-01-01T00:00:00.000Z", **fields})

    accepted = line(level="info", event="message.attempt", outcome="accepted", message_id=1)
    rejected = line(level="warning", event="message.attempt", outcome="rejected", message_id=2)
    crash = line(level="error", event="job.failed", exception="Traceback:\n  x\nKeyError: 'a'\n")
    assert summarise(accepted) is None
    assert summarise(line(level="debug", event="batch.claimed")) is None
    assert summarise(line(level="info", event="api.request", status=200)) is None
    assert summarise(line(level="info", event="api.request", status=404)) == (
        "info",
        "INFO api.request status=404",
    )
    assert summarise(rejected) == (
        "warning",
        "WARNING message.attempt outcome=rejected message_id=2",
    )
    assert summarise(crash) == ("error", "ERROR job.failed · KeyError: 'a'")
    assert summarise("no JSON at all") == ("info", "no JSON at all")


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("Привет, 🙂", "Привет, 🙂"),
    ],
)
def test_terminal_sequences_of_strangers_are_escaped(
    tmp_path: Path, sent: str, printed: str
) -> None:
    output = io.StringIO()
    log = tmp_path / "mail.log"
    log.touch()
    follower = LogFollower("mail", log, Terminal(output))
    record = json.dumps({"event": "mail.kept", "subject": sent, "level": "warning"})
    log.write_text(f"{record}\nplain {sent}\n")
    follower.follow()
    assert f"subject={printed}" in output.getvalue()
    assert f"plain {printed}" in output.getvalue()
    assert not set(output.getvalue()) & set("\x1b\x07\x9b\u202e")


def test_mails_are_private_to_their_user(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    folder.mkdir(mode=0o755)
    MailStore(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_metrics_are_in_a_private_folder_in_memory_and_removed(tmp_path: Path) -> None:
    folder = memory_folder(tmp_path)
    assert folder.parent == Path("/dev/shm")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert memory_folder(tmp_path) == folder
    assert memory_folder(tmp_path / "other") != folder
    remove_memory_folder(tmp_path / "other")
    remove_memory_folder(tmp_path)
    assert not folder.exists()
    # A link that another user has put there is not followed.
    folder.symlink_to(tmp_path)
    try:
        assert memory_folder(tmp_path) == tmp_path / "metrics"
    finally:
        folder.unlink()
