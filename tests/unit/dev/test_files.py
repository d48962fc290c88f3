"""Messages about a full disk."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dev.stack import StackError
from dev.stack.__main__ import lock_directory
from dev.stack.files import explain_full_disk

Usage = namedtuple("Usage", "total used free")


def test_almost_full_disk_is_refused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 12_000_000))
    with pytest.raises(StackError, match=r"only 12 MB are free .* make room, or set LOCAL_DIR"):
        lock_directory(tmp_path)


def test_error_from_a_full_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"the disk of {tmp_path} is full: make room, or set LOCAL_DIR to"
    error = str(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert (explain_full_disk(error, tmp_path) or "").startswith(expected)
    assert explain_full_disk("Input/output error", tmp_path) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    assert (explain_full_disk("exit 1", tmp_path) or "").startswith(expected)
