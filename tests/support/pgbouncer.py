"""A real PgBouncer in front of a test's PostgreSQL."""

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from dev.stack.ports import free_port
from dev.stack.processes import Account, Program, start_process
from tests.support.programs import require_program
from tests.support.waiting import wait_for

UNPRIVILEGED_UID = Account(65534, 65534)


class PgBouncer:
    """PgBouncer with its default settings, in the given pool mode."""

    def __init__(
        self, database_url: str, pool_mode: str, pool_size: int = 40, certificate: str | None = None
    ) -> None:
        """`certificate` (PEM, with its key): connections then need TLS."""
        self._program = require_program("pgbouncer")
        parts = urlsplit(database_url)
        port = free_port()
        self.url = urlunsplit(
            parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}")
        )
        # Not below pytest's folder: PgBouncer refuses to run as root, and others cannot enter it.
        self.directory = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/var/tmp"))
        tls = ""
        if certificate is not None:
            (self.directory / "server.pem").write_text(certificate)
            tls = "\n".join(
                f"client_tls_{name} = {value}"
                for name, value in (
                    ("sslmode", "require"),
                    ("key_file", self.directory / "server.pem"),
                    ("cert_file", self.directory / "server.pem"),
                )
            )
        (self.directory / "users.txt").write_text(f'"{parts.username}" "{parts.password}"\n')
        self._configuration = self.directory / "pgbouncer.ini"
        self._configuration.write_text(
            f"""[databases]
* = host={parts.hostname} port={parts.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {self.directory}/users.txt
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = 200
logfile = {self.directory}/log
pidfile = {self.directory}/pid
{tls}
"""
        )

    def start(self) -> "PgBouncer":
        account = None
        if os.geteuid() == 0:
            account = UNPRIVILEGED_UID
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, account.uid, account.gid)
        argv = [self._program, "-q", str(self._configuration)]
        program = Program("pgbouncer", argv, cwd=self.directory, account=account, quiet=True)
        self.process = start_process(program, self.directory / "output")
        wait_for(self._is_ready, 10, "PgBouncer")
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        shutil.rmtree(self.directory)
