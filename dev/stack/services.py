"""Real PostgreSQL and Valkey servers for the local stack and the tests.

postgres = Postgres(Path("somewhere"))
postgres.start()
postgres.url          # postgresql://postgres:…@127.0.0.1:23456/notifications
postgres.stop()       # the data and the port stay for the next start()
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev.stack import StackError
from dev.stack.binaries import can_run, postgres_bin, reachable_parent, valkey_server
from dev.stack.files import check_free_space, write_private
from dev.stack.processes import Account, Program, is_running, popen_options, stop_processes
from dev.stack.service import Service

_NOBODY = Account(65534, 65534)
_NO_RETRY = Retry(NoBackoff(), 0)

_POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}


class Postgres(Service):
    """A PostgreSQL server: 127.0.0.1 only, SCRAM password, durable commits.

    PostgreSQL refuses to run as root. Started by root it runs as the owner of its data, at first
    `nobody`; where that user cannot reach the folder, the data lives in a folder below /var/tmp
    that `service.json` remembers, and `remove` removes.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": clients are disconnected, everything is flushed
    database = "notifications"

    def __init__(
        self, directory: Path, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(directory, port)
        self._settings = {**_POSTGRES_SETTINGS, **(settings or {})}
        self._account: Account | None = None
        self.data = self.directory / "data"
        self._bin = Path()

    @property
    def url(self) -> str:
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, mode: str = "fast") -> None:
        """Stop as `pg_ctl stop -m` does: smart, fast or immediate."""
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self._end(signals[mode])

    def kill(self) -> None:
        """Send SIGKILL to the server and all its processes, as a power cut would end them."""
        if (pid := self.pid) is not None:
            server = psutil.Process(pid)
            targets = [server, *server.children()]
            for process in targets:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            stop_processes(((child, signal.SIGKILL) for child in targets[1:]), seconds=10)
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server and remove its data, wherever it is."""
        super().remove()
        if "home" in self._state:
            shutil.rmtree(self._state["home"], ignore_errors=True)

    def program(self) -> Program:
        return replace(super().program(), account=self._account)

    def _argv(self) -> list[str]:
        argv = [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def _prepare(self) -> None:
        home = Path(self._state.get("home", self.directory))
        self._account = _account_for(home / "data")
        if not can_run(self._account, home):
            if home != self.directory and (home / "data").exists():
                raise StackError(f"PostgreSQL's user cannot enter {home}, where its data is")
            home = Path(tempfile.mkdtemp(prefix="notifications-postgres-", dir=reachable_parent()))
            home.chmod(0o711)
            self._save_state(home=str(home))
        if home != self.directory and len(self._locks) == 1:
            self._lock(home)  # a copied folder names the home of the original
        self._bin = postgres_bin(self._account)
        self.data = home / "data"
        if not self.data.exists():
            check_free_space(home)
            self._initialise()
        self._clear_stale_pid()

    def _initialise(self) -> None:
        """Create the cluster and its database in a draft folder, then move that into place."""
        draft = self.data.with_name("data.new")
        password_file = self.data.with_name("password")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        write_private(password_file, self.password + "\n")
        self._give_to_account(draft, password_file)
        try:
            self._run(
                [
                    *("initdb", "-D", str(draft), "-U", "postgres", f"--pwfile={password_file}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                ]
            )
            self._run(
                ["postgres", "--single", "-D", str(draft), "postgres"],
                f"CREATE DATABASE {self.database}\n",
            )
        finally:
            password_file.unlink(missing_ok=True)
        draft.rename(self.data)

    def _give_to_account(self, *paths: Path) -> None:
        """Make PostgreSQL's user the owner of these files."""
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.uid, self._account.gid)

    def _run(self, argv: list[str], text: str = "") -> None:
        done = subprocess.run(  # noqa: S603
            [str(self._bin / argv[0]), *argv[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,  # a Ctrl-C must not leave an incomplete cluster
            **popen_options(self._account),
        )
        if done.returncode != 0:
            raise StackError(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")

    def _clear_stale_pid(self) -> None:
        """Remove a postmaster.pid that a crash, a kill or a reboot left behind.

        PostgreSQL takes any live process of the same user under that pid for itself and would not
        start. A server that really uses this data is a leftover, as the folder's lock is ours.
        """
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            server = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
            if is_running(server) and f"postgres -D {self.data} " in " ".join(server.cmdline()):
                children = server.children()
                stop_processes([(server, signal.SIGINT)], seconds=30)
                stop_processes(((child, signal.SIGQUIT) for child in children), seconds=10)
        pid_file.unlink(missing_ok=True)


def _account_for(data: Path) -> Account | None:
    """Return the user that PostgreSQL must run as: the owner of its data, and never root."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return _NOBODY


class Valkey(Service):
    """A Valkey server (Redis protocol): 127.0.0.1 only, with a password and an append-only file."""

    name = "valkey"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def is_ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, retry=_NO_RETRY) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        # A file, as a password on the command line is visible to all users.
        write_private(
            self.directory / "valkey.conf",
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir "{data}"\n'
            'daemonize no\nlogfile ""\nsave ""\nappendonly yes\nappendfsync everysec\n'
            "maxmemory-policy noeviction\n",
        )

    def _argv(self) -> list[str]:
        return [str(valkey_server()), str(self.directory / "valkey.conf")]
