"""PostgreSQL servers that begin with the present schema: copies of one cluster, made once per run.

To create a cluster and to migrate it takes seconds of CPU, and dozens of tests need a server.
"""

import atexit
import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dev.stack.services import Postgres
from tests.support.migrations import migrate
from tests.support.replication import execute

# Shared by the processes of a run; conftest.py sets it. Without pytest each process has its own.
run_directory: Path | None = None


# A copy of a server's files gives other ids than the server; these copies are new servers.
_BECOME_NEW = """
SELECT setval('message_ids_server', server_number()), setval('batch_ids_server', server_number())
"""


class MigratedPostgres(Postgres):
    """A server whose database has the present schema and no data.

    It does not wait for the disk: whichever process is killed, what it wrote is with the kernel.
    """

    def __init__(
        self, directory: Path, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(directory, port, {"fsync": "off", **(settings or {})})

    _is_copied = False

    def start(self) -> None:
        super().start()
        if self._is_copied:
            execute(self, _BECOME_NEW)
            self._is_copied = False

    def _prepare(self) -> None:
        self._save_state(password=_prepare_original()["password"])
        super()._prepare()

    def _initialise(self) -> None:
        draft = self.data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        _copy(Path(_prepare_original()["data"]), draft)
        draft.rename(self.data)
        self._is_copied = True


@cache
def _prepare_original() -> dict[str, str]:
    """Return the password and the data folder of the run's cluster; the first caller makes it."""
    directory = run_directory
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="migrated-postgres-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    description = directory / "migrated-postgres.json"
    with description.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not description.exists():
            description.write_text(json.dumps(_make_original(directory)))
    found: dict[str, str] = json.loads(description.read_text())
    return found


def _make_original(directory: Path) -> dict[str, str]:
    server = Postgres(directory / "migrated-postgres")
    data = directory / "migrated-postgres-data"
    try:
        server.start()
        migrate(server.url)
        server.stop()
        _copy(server.data, data)
        return {"password": server.password, "data": str(data)}
    finally:
        server.remove()


def _copy(source: Path, target: Path) -> None:
    # With the owner, which is PostgreSQL's user.
    subprocess.run(["cp", "-a", source, target], check=True)
