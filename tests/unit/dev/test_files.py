"""Messages about a full disk."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dev.stack import StackError
from dev.stack.__main__ import lock_directory
from dev.stack.files import describe_os_error

Usage = namedtuple("Usage", "total used free")


def test_almost_full_disk_is_refused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 12_000_000))
    with pytest.raises(StackError, match=r"only 12 MB are free .* make room, or set LOCAL_DIR"):
        lock_directory(tmp_path)


def test_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert describe_os_error(full, tmp_path).startswith("the disk of /data/x is full:")
    other = OSError(errno.EIO, "Input/output error", "/data/x")
    assert describe_os_error(other, tmp_path) == str(other)
