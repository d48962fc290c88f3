"""Starting child processes that do not outlive their parent, and knowing them again later."""

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

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Account:
    """The system user a program runs as."""

    uid: int
    gid: int


def as_account(account: Account | None) -> dict[str, Any]:
    """The options of `subprocess` that run a program as this user."""
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
    is_ready: Callable[[], bool] | None = None  # None: ready when it has lived for a while
    settles_in: float = 0.0  # seconds; that while
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 12.0  # seconds; after that it is killed
    quiet: bool = False  # its output goes to its log file alone


def die_with_parent(
    parent: int | None = None, death_signal: signal.Signals = signal.SIGTERM
) -> None:
    """Ask the kernel to send this process a signal when its parent dies (Linux only).

    The parent is the *thread* that started the process, so start programs from the main thread.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if parent is not None and os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), death_signal)


def start(program: Program, log: Path) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, with its output appended to a file.

    A file, not a pipe: a program is never held up by its reader, nor broken by the reader's death.
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
            **as_account(program.account),
        )


def reap(process: "subprocess.Popen[bytes]") -> int | None:
    """The exit status of a program that has ended, its process group killed; None while it runs.

    The group is killed while its leader is still a zombie, so that its number is certainly ours.
    """
    if process.returncode is None and hasattr(os, "waitid"):
        try:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return process.poll()
        if ended is None:
            return None
        send_signal(-process.pid, signal.SIGKILL)
    return process.poll()


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process (or, negative, a group) that may be gone by now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def identity(pid: int) -> str | None:
    """A text that tells this process from any other that has or had the same pid.

    None when there is no such process (a zombie counts as none).
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return listed.stdout.strip() or None


def command_line(pid: int) -> str:
    """The command line of a process; empty when there is none."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        command = ["ps", "-o", "command=", "-p", str(pid)]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return listed.stdout.strip()


def children(pid: int) -> list[int]:
    """The direct children of a process (Linux; elsewhere none are found)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except (OSError, UnicodeDecodeError, IndexError):
            continue
        if parent == str(pid):
            found.append(int(stat.parent.name))
    return found


def with_environment(entry: str) -> list[int]:
    """The processes (but this one) that were started with this NAME=value (Linux only)."""
    wanted = entry.encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def stop_all(targets: Iterable[tuple[int, signal.Signals]], within: float) -> int:
    """Stop processes that are not our children, first asking, then by SIGKILL; say how many."""
    alive: dict[int, str] = {}
    for pid, number in targets:
        mark = identity(pid)
        if mark is not None:
            alive[pid] = mark
            send_signal(pid, number)
    count = len(alive)
    alive = _wait_gone(alive, within)
    for pid in alive:
        send_signal(pid, signal.SIGKILL)
    _wait_gone(alive, 5.0)
    return count


def _wait_gone(alive: dict[int, str], seconds: float) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while alive := {pid: mark for pid, mark in alive.items() if identity(pid) == mark}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return alive
