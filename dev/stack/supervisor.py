"""Runs a table of programs: starts them in order, restarts what dies, stops everything.

One thread and one short loop. Each program is in a session of its own, so that a Ctrl-C at the
terminal reaches the supervisor alone, which then stops the programs in the right order.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from dev.stack import StackError
from dev.stack.processes import (
    Program,
    identity,
    reap,
    send_signal,
    start,
    stop_all,
    with_environment,
)
from dev.stack.service import write_private
from dev.stack.terminal import LogView, Terminal

_TICK = 0.05
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 10.0
_HEALTHY_AFTER = 10.0  # seconds; who has lived that long is restarted without a longer pause
_READY_WITHIN = 120.0  # after a crash PostgreSQL may have much to replay
_DEATHS_TO_GIVE_UP = 5  # before it was ready for the first time
MARK = "LOCAL_STACK"  # in every program's environment: whose it is


class StopRequested(Exception):
    """Somebody wants the stack to stop."""


@dataclass
class _Running:
    program: Program
    view: LogView
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    backoff: float = 0.0
    restart_at: float = float("inf")
    deaths: int = 0
    once: bool = False  # it is meant to end


class Supervisor:
    """Keeps the programs of one folder running."""

    def __init__(self, directory: Path, terminal: Terminal) -> None:
        self._directory = directory.absolute()
        self._terminal = terminal
        self._logs = self._directory / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._records = self._directory / "processes.json"
        self._running: dict[str, _Running] = {}
        self._requests = 0
        self._requested = 0.0

    def catch_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and a closed terminal stop the stack in good order."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # One wish to stop often arrives as several signals (to make, to the group, passed on).
        if self._requests == 0 or time.monotonic() - self._requested > 1.0:
            self._requests += 1
            self._requested = time.monotonic()

    def stop_leftovers(self, within: float = 12.0) -> None:
        """Stop what a supervisor that was killed has left in this folder.

        A process is ours if it is the very one we recorded (same pid, boot and start time) or
        carries our mark in its environment; a pid alone proves nothing.
        """
        try:
            records = json.loads(self._records.read_text())
        except (FileNotFoundError, ValueError):
            records = {}
        targets = dict.fromkeys(with_environment(self._mark()), signal.SIGTERM)
        for record in records.values():
            if identity(record["pid"]) == record["identity"]:
                targets[record["pid"]] = signal.Signals(record["signal"])
        count = stop_all(targets.items(), within)
        if count:
            self._terminal.say(f"stopped {count} processes that the last run left behind")
        self._records.unlink(missing_ok=True)

    def run_once(self, program: Program, within: float = 300.0) -> None:
        """Run a program to its end; it must succeed."""
        running = self._launch(program, once=True)
        deadline = time.monotonic() + within
        while (status := self._ended(running)) is None:
            if time.monotonic() > deadline:
                raise StackError(f"{program.name} took more than {within:.0f} s")
            self._pause()
        running.view.follow()
        del self._running[program.name]
        if status != 0:
            raise StackError(f"{program.name} failed ({describe(status)}): {self._log_of(program)}")

    def bring_up(self, programs: Sequence[Program]) -> None:
        """Start these programs together and wait until all of them are ready."""
        waiting = [self._launch(program) for program in programs]
        deadline = time.monotonic() + _READY_WITHIN
        while waiting := [running for running in waiting if not self._is_ready(running)]:
            names = ", ".join(running.program.name for running in waiting)
            if time.monotonic() > deadline:
                raise StackError(f"not ready after {_READY_WITHIN:.0f} s: {names}")
            if any(running.deaths >= _DEATHS_TO_GIVE_UP for running in waiting):
                self._follow(self._running.values())
                raise StackError(f"does not start: {names}; see {self._logs}")
            self._pause()
        self._follow(self._running.values())

    def watch(self) -> None:
        """Restart whatever dies, until asked to stop."""
        while True:
            self._pause()

    def stop(self) -> None:
        """Stop everything, the last stage first; a second request to stop kills at once."""
        hurry = self._requests + 1
        stages = {running.program.stage for running in self._running.values()}
        for stage in sorted(stages, reverse=True):
            self._stop_stage([r for r in self._running.values() if r.program.stage == stage], hurry)
        stop_all(((pid, signal.SIGKILL) for pid in with_environment(self._mark())), within=5)
        self._records.unlink(missing_ok=True)

    def _stop_stage(self, stage: list[_Running], hurry: int) -> None:
        deadlines = {}
        for running in stage:
            running.restart_at = float("inf")
            deadlines[running.program.name] = time.monotonic() + running.program.stop_within
            if running.process is not None and reap(running.process) is None:
                send_signal(running.process.pid, running.program.stop_signal)
        while alive := [r for r in stage if r.process is not None and reap(r.process) is None]:
            for running in alive:
                late = time.monotonic() > deadlines[running.program.name]
                if (late or self._requests >= hurry) and running.process is not None:
                    self._terminal.say(f"{running.program.name} did not stop in time: killed")
                    send_signal(-running.process.pid, signal.SIGKILL)
                    running.process.wait()
            time.sleep(_TICK)
            self._follow(stage)
        self._follow(stage)

    def _launch(self, program: Program, once: bool = False) -> _Running:
        view = LogView(program.name, self._log_of(program), self._terminal)
        running = _Running(program, view, once=once)
        self._running[program.name] = running
        self._start(running)
        return running

    def _start(self, running: _Running) -> None:
        program = running.program
        marked = replace(program, env={**program.env, MARK: str(self._directory)})
        running.process = start(marked, self._log_of(program))
        running.started = time.monotonic()
        running.restart_at = float("inf")
        records = {
            name: {
                "pid": r.process.pid,
                "identity": identity(r.process.pid),
                "signal": int(r.program.stop_signal),
            }
            for name, r in self._running.items()
            if r.process is not None and r.process.returncode is None
        }
        write_private(self._records, json.dumps(records, indent=2) + "\n")

    def _pause(self) -> None:
        """One turn of the loop: show what was logged, restart what died, sleep a moment."""
        if self._requests:
            raise StopRequested
        self._follow(self._running.values())
        for running in list(self._running.values()):
            if running.once:
                continue
            status = self._ended(running)
            if status is not None and running.restart_at == float("inf"):
                self._plan_restart(running, status)
            if time.monotonic() >= running.restart_at:
                self._start(running)
        time.sleep(_TICK)

    def _plan_restart(self, running: _Running, status: int) -> None:
        if time.monotonic() - running.started >= _HEALTHY_AFTER:
            running.backoff = 0.0
        running.deaths += 1
        running.backoff = min(max(_FIRST_BACKOFF, running.backoff * 2), _LONGEST_BACKOFF)
        running.restart_at = time.monotonic() + running.backoff
        name = running.program.name
        self._terminal.say(
            f"{name} died ({describe(status)}); started again in {running.backoff:.1f} s"
            + (f", see {self._log_of(running.program)}" if running.program.quiet else "")
        )

    def _follow(self, some: Iterable[_Running]) -> None:
        for running in some:
            if not running.program.quiet:
                running.view.follow()

    def _is_ready(self, running: _Running) -> bool:
        program = running.program
        if self._ended(running) is not None:
            return False
        if program.is_ready is not None:
            return program.is_ready()
        return time.monotonic() - running.started >= program.settles_in

    @staticmethod
    def _ended(running: _Running) -> int | None:
        return reap(running.process) if running.process is not None else None

    def _log_of(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def _mark(self) -> str:
        return f"{MARK}={self._directory}"


def describe(status: int) -> str:
    """An exit status in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
