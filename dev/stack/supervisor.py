"""Run a table of programs: start them in order, restart what dies, stop everything.

One thread and one short loop. Each program is in a session of its own, so that a Ctrl-C at the
terminal reaches only the supervisor, which then stops the programs in the right order.
"""

import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import FrameType

from dev.stack import StackError
from dev.stack.files import explain_full_disk
from dev.stack.processes import (
    Program,
    find_by_environment,
    poll_process,
    send_signal,
    start_process,
    stop_processes,
)
from dev.stack.terminal import LogFollower, Terminal

_TICK = 0.05
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0
_HEALTHY_SECONDS = 10.0  # a program that ran this long is restarted with the shortest backoff
_READY_SECONDS = 120.0  # after a crash PostgreSQL may have much to replay
_RUN_SECONDS = 300.0  # for a program that must end, such as migrations
_MAX_DEATHS = 5  # before it was ready for the first time
# In the environment of every program: its stack's folder, and the signal that stops it.
MARK, STOP_SIGNAL = "LOCAL_STACK", "LOCAL_STACK_STOP_SIGNAL"


class StopRequested(Exception):
    """A signal has requested that the stack stops."""


@dataclass
class _Child:
    program: Program
    log: LogFollower
    process: "subprocess.Popen[bytes]"
    started: float
    backoff: float = 0.0
    restart_at: float | None = None
    deaths: int = 0

    @property
    def exit_status(self) -> int | None:
        return poll_process(self.process)

    def is_ready(self) -> bool:
        if self.exit_status is not None:
            return False
        if self.program.is_ready is not None:
            return self.program.is_ready()
        return time.monotonic() - self.started >= self.program.settle_seconds


class Supervisor:
    """Keeps the programs of one folder running."""

    def __init__(self, directory: Path, terminal: Terminal) -> None:
        self._directory = directory.absolute()
        self._terminal = terminal
        self._logs = self._directory / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._children: dict[str, _Child] = {}
        self._stop_requests = 0
        self._last_request = 0.0

    def catch_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and a closed terminal stop the stack in order."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # One request to stop often arrives as several signals (to make, to the group, passed on).
        if self._stop_requests == 0 or time.monotonic() - self._last_request > 1.0:
            self._stop_requests += 1
            self._last_request = time.monotonic()

    def stop_leftovers(self, seconds: float = 12.0) -> None:
        """Stop what a killed supervisor left running for this folder.

        Such processes carry the folder in their environment; a pid alone would prove nothing.
        """
        leftovers = find_by_environment(MARK, str(self._directory))
        targets = ((process, int(env.get(STOP_SIGNAL, "15"))) for process, env in leftovers)
        if count := stop_processes(targets, seconds):
            self._terminal.report(f"stopped {count} processes that the last run left behind")

    def run_to_end(self, program: Program) -> None:
        """Run a program until it exits; raise StackError if it fails."""
        child = self._launch(program)
        while (status := child.exit_status) is None:
            if time.monotonic() - child.started > _RUN_SECONDS:
                raise StackError(f"{program.name} took more than {_RUN_SECONDS:.0f} s")
            self._check_stop_requested()
            child.log.follow()
            time.sleep(_TICK)
        child.log.follow()
        del self._children[program.name]
        if status != 0:
            raise StackError(f"{program.name} failed ({_describe(status)}): {child.log.path}")

    def start_programs(self, programs: Sequence[Program]) -> None:
        """Start these programs together and wait until all of them are ready."""
        waiting = [self._launch(program) for program in programs]
        deadline = time.monotonic() + _READY_SECONDS
        while waiting := [child for child in waiting if not child.is_ready()]:
            names = ", ".join(child.program.name for child in waiting)
            if time.monotonic() > deadline:
                raise StackError(f"not ready after {_READY_SECONDS:.0f} s: {names}")
            if any(child.deaths >= _MAX_DEATHS for child in waiting):
                raise StackError(f"does not start: {names}; see {self._logs}")
            self._tick()
        self._follow_logs(self._children.values())

    def watch(self) -> None:
        """Restart what dies, until a signal raises StopRequested."""
        while True:
            self._tick()

    def stop(self) -> None:
        """Stop everything, the last stage first; another signal kills immediately."""
        requests = self._stop_requests
        children = sorted(self._children.values(), key=lambda child: -child.program.stage)
        for _, stage in groupby(children, key=lambda child: child.program.stage):
            self._stop_children(list(stage), requests)
        left = find_by_environment(MARK, str(self._directory))
        stop_processes(((process, signal.SIGKILL) for process, _ in left), seconds=5)

    def _stop_children(self, children: list[_Child], requests: int) -> None:
        started = time.monotonic()
        for child in children:
            if child.exit_status is None:
                send_signal(child.process.pid, child.program.stop_signal)
        while alive := [child for child in children if child.exit_status is None]:
            for child in alive:
                late = time.monotonic() - started > child.program.stop_seconds
                if late or self._stop_requests > requests:
                    self._terminal.report(f"{child.program.name} did not stop in time: killed")
                    send_signal(-child.process.pid, signal.SIGKILL)
                    child.process.wait()
            self._follow_logs(children)
            time.sleep(_TICK)
        self._follow_logs(children)

    def _launch(self, program: Program) -> _Child:
        marks = {MARK: str(self._directory), STOP_SIGNAL: str(int(program.stop_signal))}
        program = replace(program, env={**program.env, **marks})
        log = LogFollower(program.name, self._logs / f"{program.name}.log", self._terminal)
        child = _Child(program, log, start_process(program, log.path), time.monotonic())
        self._children[program.name] = child
        return child

    def _check_stop_requested(self) -> None:
        if self._stop_requests:
            raise StopRequested

    def _tick(self) -> None:
        """Print what was logged, restart what died, sleep a moment."""
        self._check_stop_requested()
        self._follow_logs(self._children.values())
        for child in self._children.values():
            status = child.exit_status
            if status is None:
                continue
            if child.restart_at is None:
                self._plan_restart(child, status)
            elif time.monotonic() >= child.restart_at:
                child.process = start_process(child.program, child.log.path)
                child.started, child.restart_at = time.monotonic(), None
        time.sleep(_TICK)

    def _plan_restart(self, child: _Child, status: int) -> None:
        now = time.monotonic()
        healthy = now - child.started >= _HEALTHY_SECONDS
        doubled = 0.0 if healthy else child.backoff * 2
        child.backoff = min(max(_FIRST_BACKOFF, doubled), _LONGEST_BACKOFF)
        child.restart_at = now + child.backoff
        child.deaths += 1
        see = f", see {child.log.path}" if child.program.quiet else ""
        self._terminal.report(
            f"{child.program.name} died ({_describe(status)});"
            f" restarting in {child.backoff:.1f} s{see}"
        )
        if hint := explain_full_disk("", self._directory):
            self._terminal.report(hint)

    def _follow_logs(self, children: Iterable[_Child]) -> None:
        for child in children:
            if not child.program.quiet:
                child.log.follow()


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
