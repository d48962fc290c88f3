"""Start child processes that end with their parent, and stop processes of earlier runs."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Account:
    """The system user that a program runs as."""

    uid: int
    gid: int


def popen_options(account: Account | None) -> dict[str, Any]:
    """Return the options of `subprocess` that run a program as this user."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


@dataclass(frozen=True)
class Program:
    """One row of the process table: what to run, and how to start, watch and stop it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    account: Account | None = None  # None: the user that starts it
    stage: int = 0  # started in ascending order, stopped in descending order
    is_ready: Callable[[], bool] | None = None  # None: ready once it has run for `settle_seconds`
    settle_seconds: float = 0.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 12.0  # after that it is killed
    quiet: bool = False  # its output goes to its log file only


def die_with_parent(
    parent: int | None = None, death_signal: signal.Signals = signal.SIGTERM
) -> None:
    """Make the kernel send this process a signal when its parent dies (Linux only).

    The parent is the *thread* that started the process, so start programs from the main thread.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if parent is not None and os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), death_signal)


def start_process(program: Program, log: Path) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, with its output appended to a file.

    With a file, unlike a pipe, neither a slow nor a dead reader stops the program.
    """
    parent = os.getpid()
    with log.open("ab") as output:
        # A change of user clears the death signal, but preexec_fn is called after that change.
        return subprocess.Popen(  # noqa: S603
            list(program.argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=program.cwd,
            env={**os.environ, **program.env},
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent, program.stop_signal),
            **popen_options(program.account),
        )


def poll_process(process: "subprocess.Popen[bytes]") -> int | None:
    """Return the exit status of a program that has ended, or None; kill what is left of its group.

    As long as the group has members, no new process gets its number.
    """
    if process.returncode is None and process.poll() is not None:
        send_signal(-process.pid, signal.SIGKILL)
    return process.returncode


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process (or, negative, a group) that may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_by_environment(name: str, value: str) -> list[tuple[psutil.Process, dict[str, str]]]:
    """Return the other processes started with this variable, each with its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if environment.get(name) == value and process.pid != os.getpid():
                found.append((process, environment))
    return found


def stop_processes(targets: Iterable[tuple[psutil.Process, int]], seconds: float) -> int:
    """Stop processes that are not our children, each by its signal, later by SIGKILL.

    Return how many there were.
    """
    alive = []
    for process, number in targets:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
            alive.append(process)
    count = len(alive)
    alive = _wait_stopped(alive, seconds)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait_stopped(alive, 5.0)
    return count


def _wait_stopped(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while processes := [process for process in processes if is_running(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return processes
