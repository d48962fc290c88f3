"""The journal's file: what a reader finds after its writer was killed at any moment."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.journals import AT, RECORD_BYTES, abandon, make_results, overwrite_record
from worker.dispatch.journal import (
    HEADER_BYTES,
    Acceptance,
    DatabaseIdentity,
    Journal,
    JournalContents,
    lock_file,
    read_journal,
)
from worker.provider.outcomes import Outcome

IDENTITY = DatabaseIdentity(2**64 - 5, 16_384)
SHORT = 20  # records


def make_journal(folder: Path, reserve: int = 5) -> Journal:
    return Journal.create(folder, IDENTITY, reserve, capacity=SHORT)


def read(path: Path) -> JournalContents | None:
    with path.open("rb") as file:
        return read_journal(file.fileno())


def read_ids(path: Path) -> list[int]:
    contents = read(path)
    assert contents is not None
    return sorted(each.message_id for each in contents.acceptances)


def test_acceptances_outlive_the_writer(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    journal.append(make_results([101]))
    journal.append(make_results([102], outcome=Outcome.REJECTED))
    journal.append(make_results([103], key=(8, 4, 2)))
    assert not journal.is_empty
    contents = read(abandon(journal))
    expected = [Acceptance(7, 9, 101, AT), Acceptance(8, 4, 103, AT)]
    assert contents == JournalContents(IDENTITY, expected, 0)


def test_recorded_acceptances_are_not_read_again(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    journal.append(make_results([1, 2, 3]))
    position = journal.position
    journal.append(make_results([4, 5]))
    journal.mark_recorded(position)
    assert read_ids(abandon(journal)) == [4, 5]


def test_the_ring_is_reused(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    for first in range(0, 10 * SHORT, 10):
        journal.append(make_results(range(first, first + 10)))
        journal.mark_recorded(journal.position - 3)
    assert read_ids(journal.path) == list(range(10 * SHORT - 3, 10 * SHORT))
    journal.mark_recorded(journal.position)
    assert journal.is_empty
    assert journal.path.stat().st_size == HEADER_BYTES + SHORT * RECORD_BYTES
    journal.close()
    assert not list(tmp_path.iterdir())


def test_full_journal_has_no_room_until_something_is_recorded(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, reserve=5)
    journal.append(make_results(range(15)))
    assert journal.has_room()
    journal.append(make_results([15]))
    assert not journal.has_room()
    # What is in flight at that moment still fits.
    journal.append(make_results(range(16, 20)))
    assert read_ids(journal.path) == list(range(20))
    journal.mark_recorded(journal.position)
    assert journal.has_room()
    journal.close()


@pytest.mark.parametrize("written", range(RECORD_BYTES))
def test_half_written_record_is_ignored(tmp_path: Path, written: int) -> None:
    journal = make_journal(tmp_path)
    journal.append(make_results(range(1, SHORT)))
    journal.mark_recorded(2)
    journal.append(make_results([500]))  # in the slot with the sequence number 0
    journal.append(make_results([501]))  # over the first one
    path = abandon(journal)
    record = path.read_bytes()[HEADER_BYTES + RECORD_BYTES :][:RECORD_BYTES]
    first = make_journal(tmp_path)
    first.append(make_results([1]))
    old = first.path.read_bytes()[HEADER_BYTES + RECORD_BYTES :][:RECORD_BYTES]
    first.mark_recorded(first.position)
    first.close()
    overwrite_record(path, 1, 0, record[:written] + old[written:])
    contents = read(path)
    assert contents is not None
    assert contents.damaged == (written > 0)  # untouched, it is an old record
    assert read_ids(path) == [*range(2, SHORT), 500]


def test_damaged_mark_means_that_nothing_is_known_to_be_recorded(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    journal.append(make_results([1, 2, 3]))
    journal.mark_recorded(journal.position)
    journal.append(make_results([4]))
    path = abandon(journal)
    with path.open("r+b") as file:
        file.seek(128)
        file.write(b"\xff")
    assert read_ids(path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: b"x" + data[1:],
        lambda data: data[:8] + b"\x02" + data[9:],
        lambda data: data[:16] + b"\xff" * 8 + data[24:],
        lambda data: data[:30] + b"\x00\xff" + data[32:],
    ],
)
def test_file_of_another_format_is_not_read(tmp_path: Path, change: object) -> None:
    journal = make_journal(tmp_path)
    journal.append(make_results([1]))
    path = abandon(journal)
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    assert read(path) is None


def test_file_without_a_header_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(bytes(10_000))
    contents = read(path)
    assert contents is not None
    assert not contents.acceptances


def test_lock_is_free_after_a_kill_only(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from worker.dispatch.journal import DatabaseIdentity, Journal
from tests.support.journals import make_results
journal = Journal.create(Path({str(tmp_path)!r}), DatabaseIdentity(1, 2), 5)
journal.append(make_results(range(1000)))
print(journal.path, flush=True)
sys.stdin.read()
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    path = Path(writer.stdout.readline().strip())
    fd = os.open(path, os.O_RDWR)
    try:
        assert not lock_file(fd)
        writer.kill()
        writer.wait()
        assert lock_file(fd)
        assert read_ids(path) == list(range(1000))
        path.unlink()
        assert not lock_file(fd)
    finally:
        os.close(fd)
        writer.communicate()


def test_full_disk_is_an_error_at_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space left"):
        make_journal(tmp_path)
    assert not list(tmp_path.iterdir())
