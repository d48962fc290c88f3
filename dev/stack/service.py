"""What a server with its data in a folder has in common: start, stop, kill, start again.

Each folder remembers its port and password in `service.json`, and serves one server at a time.
"""

import fcntl
import json
import os
import secrets
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from dev.stack import StackError
from dev.stack.ports import free_port, is_free
from dev.stack.processes import Program, reap, send_signal, start

_RECOVERY = 120.0  # seconds; after a crash PostgreSQL first replays up to max_wal_size
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
        self._locks: dict[Path, int] = {}
        self._state: dict[str, Any] = {}

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; known once prepared."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether a client gets an answer now."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data directory if there is none, and clear what a crash left."""

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
        return self._process.pid if self._process and reap(self._process) is None else None

    def prepare(self) -> Program:
        """Make everything ready for a start, and say what to run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take_lock(self.directory)
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
            stop_within=30.0,
            quiet=True,
        )

    def start(self) -> None:
        """Start the server and wait until it answers.

        It dies with the thread that started it: start it from one that lasts.
        """
        if self.pid is not None:
            return
        try:
            program = self.prepare()
            self._process = start(program, self.log)
            self._wait_ready(program)
        except StackError:
            self.kill()
            raise

    def _wait_ready(self, program: Program) -> None:
        deadline = time.monotonic() + _RECOVERY
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer: {self._last_words()}")
            if self.pid is None:
                # Children of a server that was killed may need a moment to notice.
                if _OLD_CHILDREN not in self._last_words():
                    raise StackError(f"{self.name} did not start: {self._last_words()}")
                self._process = start(program, self.log)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server in good order; what was acknowledged is kept."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def release(self) -> None:
        """Let another start in this folder; `stop` and `kill` do it too."""
        while self._locks:
            os.close(self._locks.popitem()[1])

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and reap(self._process) is None:
            send_signal(self._process.pid, number)
            deadline = time.monotonic() + 30
            while reap(self._process) is None:
                if time.monotonic() > deadline:
                    send_signal(self._process.pid, signal.SIGKILL)
                time.sleep(0.01)
        self._process = None
        self.release()

    def _take_lock(self, folder: Path) -> None:
        if folder in self._locks:
            return
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StackError(f"{self.name} is already running in {folder}") from None
        self._locks[folder] = lock

    def _load_state(self) -> None:
        path = self.directory / "service.json"
        try:
            self._state = json.loads(path.read_text())
        except FileNotFoundError:
            self._state = {"password": secrets.token_urlsafe(24)}
        port = self._wanted_port or self._state.get("port")
        if port is None or (self._wanted_port is None and not is_free(port)):
            port = free_port()
        self._remember(port=port)

    def _remember(self, **values: Any) -> None:
        self._state.update(values)
        write_private(self.directory / "service.json", json.dumps(self._state, indent=2) + "\n")

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return " / ".join(lines[-3:]) or "it said nothing"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
