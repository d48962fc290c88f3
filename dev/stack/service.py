"""The base of the embedded servers: start, stop, kill and restart a server on its data folder.

Each folder remembers its port and password in `service.json`, and serves one server at a time.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from dev.stack import StackError
from dev.stack.files import try_lock, write_private
from dev.stack.ports import free_port, is_free
from dev.stack.processes import Program, poll_process, send_signal, start_process

_RECOVERY_SECONDS = 120.0  # after a crash PostgreSQL first replays up to max_wal_size
_OLD_CHILDREN = "pre-existing shared memory block"


class Service(ABC):
    """A server with its data in a folder of its own."""

    name: str
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory.absolute()
        self.log = self.directory / "server.log"
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._locks: list[int] = []
        self._state: dict[str, Any] = {}

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; valid once prepared."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server answers a client now."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create the data directory if there is none, and remove what a crash left."""

    @abstractmethod
    def _argv(self) -> list[str]: ...

    @property
    def port(self) -> int:
        return int(self._state["port"])

    @property
    def password(self) -> str:
        return str(self._state["password"])

    @property
    def pid(self) -> int | None:
        """The running server's pid, if it was started by `start`."""
        return self._process.pid if self._process and poll_process(self._process) is None else None

    def prepare(self) -> Program:
        """Prepare the data folder and return the program to run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._locks:
            self._lock(self.directory)
        self._load_state()
        self._prepare()
        return self.program()

    def program(self) -> Program:
        return Program(
            name=self.name,
            argv=self._argv(),
            env={"LC_ALL": "C", "TZ": "UTC"},
            cwd=self.directory,
            is_ready=self.is_ready,
            stop_signal=self.stop_signal,
            stop_seconds=30.0,
            quiet=True,
        )

    def start(self) -> None:
        """Start the server and wait until it answers.

        It dies with the thread that started it, so start it from one that lasts.
        """
        if self.pid is not None:
            return
        try:
            program = self.prepare()
            self._process = start_process(program, self.log)
            self._wait_ready(program)
        except StackError:
            self.kill()
            raise

    def _wait_ready(self, program: Program) -> None:
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer: {self._log_tail()}")
            if self.pid is None:
                # Children of a killed server may need a moment to exit.
                if _OLD_CHILDREN not in self._log_tail():
                    raise StackError(f"{self.name} did not start: {self._log_tail()}")
                self._process = start_process(program, self.log)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server in order; what was acknowledged is kept."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server and remove its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and poll_process(self._process) is None:
            send_signal(self._process.pid, number)
            deadline = time.monotonic() + 30
            while poll_process(self._process) is None:
                if time.monotonic() > deadline:
                    send_signal(self._process.pid, signal.SIGKILL)
                time.sleep(0.01)
        self._process = None
        self._release_locks()

    def _lock(self, folder: Path) -> None:
        lock = try_lock(folder)
        if lock is None:
            raise StackError(f"{self.name} is already running in {folder}")
        self._locks.append(lock)

    def _release_locks(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def _load_state(self) -> None:
        path = self.directory / "service.json"
        try:
            self._state = json.loads(path.read_text())
        except FileNotFoundError:
            self._state = {"password": secrets.token_urlsafe(24)}
        port = self._wanted_port or self._state.get("port")
        if port is None or (self._wanted_port is None and not is_free(port)):
            port = free_port()
        self._save_state(port=port)

    def _save_state(self, **values: Any) -> None:
        self._state.update(values)
        write_private(self.directory / "service.json", json.dumps(self._state, indent=2) + "\n")

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return " / ".join(lines[-3:]) or "it logged nothing"
