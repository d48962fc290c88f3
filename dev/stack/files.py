"""Folder locks, private files and checks for a full disk."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path

from dev.stack import StackError

MIN_FREE_MB = 256  # to start with
_MEMORY = Path("/dev/shm")  # noqa: S108 (each use makes a private folder)
_FULL_MB = 16  # less counts as full, as nothing can work any more


def try_lock(folder: Path) -> int | None:
    """Lock a folder for this process; return the lock's file descriptor, or None if it is taken."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def write_private(path: Path, text: str) -> None:
    """Write a file atomically that only its owner may read."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def memory_folder(directory: Path) -> Path:
    """Return a private folder in memory that belongs to `directory`; without /dev/shm, one in it.

    For files that are mapped into memory: on a full disk, writing them would kill their process.
    """
    digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    folder = _MEMORY / f"notifications-{os.geteuid()}-{digest}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            return folder
    except OSError:
        pass  # no such file system, or not for this user
    return directory / "metrics"


def remove_memory_folder(directory: Path) -> None:
    """Give the memory back."""
    shutil.rmtree(memory_folder(directory), ignore_errors=True)


def check_free_space(folder: Path) -> None:
    """Raise StackError if the disk of `folder` has too little room to start with."""
    free = _free_mb(folder)
    if free < MIN_FREE_MB:
        raise StackError(
            f"only {free} MB are free on the disk of {folder}, {MIN_FREE_MB} MB are needed:"
            " make room, or set LOCAL_DIR to a folder on another disk"
        )


def explain_full_disk(error: str, *folders: Path) -> str | None:
    """Return what to do if this error comes from a full disk under one of `folders`, else None."""
    full = [folder for folder in folders if _free_mb(folder) < _FULL_MB]
    if not full and os.strerror(errno.ENOSPC) not in error:
        return None
    folder = (full or folders)[0]
    return f"the disk of {folder} is full: make room, or set LOCAL_DIR to a folder on another disk"


def _free_mb(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 1_000_000
