"""A dispatch worker's journal of acceptances: a memory-mapped file that outlives the process.

An acceptance is written to the journal as soon as its response was read, and recorded in PostgreSQL
within half a second. If the process is killed in between, another worker on the same host reads the
journal and records what it lists (worker/dispatch/journal_recovery.py). The pages of a mapped file
belong to the kernel, so they survive the process without fsync; a loss of the host loses them.

The file is a header and a ring of records of equal size. Each record has a sequence number and a
checksum, so a reader recognises records that are half written or already recorded. The process
that writes a journal holds its lock (flock) for as long as it lives.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Self

from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row
from worker.dispatch.leased_batch import OutgoingMessage
from worker.provider.http.client import Result
from worker.provider.outcomes import Outcome

SUFFIX = ".journal"
# More than a worker accepts before it stops sending because its outcomes are not recorded.
CAPACITY = 131_072
MAGIC = b"accepted"
VERSION = 1
HEADER_BYTES = 4096
MAX_FILE_BYTES = 1 << 30

# Magic, version, bytes per record, capacity, the database's identity; then a checksum.
_HEADER = Struct("<8sIIQQQ")
_CHECKSUM = Struct("<I")
# The first sequence number that is not recorded, with a checksum.
_RECORDED = Struct("<QI")
_RECORDED_AT = 128
_UNSIGNED = Struct("<Q")
# Sequence number, mailing, batch, message, token, seconds since 1970; then a checksum.
_FIELDS = Struct("<Qqqqid")
_RECORD = Struct("<QqqqidI")

READ_IDENTITY = """
SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database())::bigint
FROM pg_control_system()
"""


class DatabaseIdentity(NamedTuple):
    """What tells a database from every other, also from a restored or recreated one."""

    system: int
    database: int


class Acceptance(NamedTuple):
    """A message that the provider accepted, at this instant (seconds since 1970)."""

    mailing_id: int
    batch_id: int
    message_id: int
    at: float


class JournalContents(NamedTuple):
    """What an abandoned journal holds: acceptances that are not known to be recorded.

    `damaged` is the number of records with a wrong checksum.
    """

    identity: DatabaseIdentity
    acceptances: list[Acceptance]
    damaged: int


def read_identity(cursor: Cursor) -> DatabaseIdentity:
    """Return the identity of the database that the cursor leads to."""
    cursor.execute(READ_IDENTITY)
    system, database = fetch_one_row(cursor)
    return DatabaseIdentity(system % 2**64, database)


class Journal:
    """A journal that this process writes. `reserve`: how many messages may be in flight at once."""

    def __init__(
        self, path: Path, fd: int, identity: DatabaseIdentity, reserve: int, capacity: int
    ):
        self.path, self.identity = path, identity
        self._fd, self._capacity = fd, capacity
        self._max_unrecorded = capacity - reserve
        self._map = mmap.mmap(fd, _file_bytes(capacity))
        header = _HEADER.pack(MAGIC, VERSION, _RECORD.size, capacity, *identity)
        self._map[: len(header) + _CHECKSUM.size] = header + _CHECKSUM.pack(zlib.crc32(header))
        self.position = 1  # the next sequence number
        self._recorded = 0
        self.mark_recorded(1)

    @classmethod
    def create(
        cls, folder: Path, identity: DatabaseIdentity, reserve: int, capacity: int = CAPACITY
    ) -> Self:
        """Create a journal in `folder`. Raises OSError, also if the disk has no room for it."""
        while True:
            path = folder / f"{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Another worker may have taken the new file for an abandoned one, and removed it.
                if lock_file(fd):
                    # Without its blocks, a full disk would end the process with SIGBUS.
                    os.posix_fallocate(fd, 0, _file_bytes(capacity))
                    return cls(path, fd, identity, reserve, capacity)
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(fd)
                raise
            os.close(fd)

    def append(self, results: Iterable[Result[OutgoingMessage]]) -> None:
        """Add those of the results that are acceptances."""
        position, capacity, target = self.position, self._capacity, self._map
        write, pack, checksum, accepted = (
            _RECORD.pack_into,
            _FIELDS.pack,
            zlib.crc32,
            Outcome.ACCEPTED,
        )
        for result in results:
            if result.outcome is not accepted:
                continue
            mailing_id, batch_id, token = result.request.batch.key
            message_id, at = result.request.message_id, result.finished_at
            write(
                target,
                HEADER_BYTES + position % capacity * _RECORD_BYTES,
                position,
                mailing_id,
                batch_id,
                message_id,
                token,
                at,
                checksum(pack(position, mailing_id, batch_id, message_id, token, at)),
            )
            position += 1
        self.position = position

    def mark_recorded(self, position: int) -> None:
        """Every acceptance before this position is recorded in PostgreSQL."""
        self._recorded = position
        checksum = zlib.crc32(_UNSIGNED.pack(position))
        _RECORDED.pack_into(self._map, _RECORDED_AT, position, checksum)

    def has_room(self) -> bool:
        """Whether everything that may be in flight fits, whatever its outcome."""
        return self.position - self._recorded <= self._max_unrecorded

    @property
    def is_empty(self) -> bool:
        """Whether every acceptance is recorded."""
        return self.position == self._recorded

    def close(self) -> None:
        """Unlock the file, and remove it if it is empty; else another worker reads it."""
        if self._map.closed:
            return
        if self.is_empty:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._fd)


_RECORD_BYTES = _RECORD.size


def lock_file(fd: int) -> bool:
    """Lock a journal; return False if a living process has it, or if it was removed meanwhile."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def read_journal(fd: int) -> JournalContents | None:
    """Read a journal; None if it is not one of this format."""
    size = min(os.fstat(fd).st_size, MAX_FILE_BYTES)
    data = os.pread(fd, size, 0)
    if len(data) < HEADER_BYTES:
        return None
    header = data[: _HEADER.size]
    if not any(header):  # its writer ended before it wrote anything
        return JournalContents(DatabaseIdentity(0, 0), [], 0)
    magic, version, record_bytes, capacity, system, database = _HEADER.unpack(header)
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if (magic, version, record_bytes) != (MAGIC, VERSION, _RECORD.size):
        return None
    if checksum != zlib.crc32(header) or len(data) < _file_bytes(capacity):
        return None
    recorded, checksum = _RECORDED.unpack_from(data, _RECORDED_AT)
    if checksum != zlib.crc32(_UNSIGNED.pack(recorded)):
        recorded = 0  # reporting an acceptance again changes nothing
    acceptances, damaged = [], 0
    records = memoryview(data)[HEADER_BYTES : _file_bytes(capacity)]
    for fields in _RECORD.iter_unpack(records):
        if not any(fields):
            continue
        position, mailing_id, batch_id, message_id, _, at, checksum = fields
        if checksum != zlib.crc32(_FIELDS.pack(*fields[:-1])):
            damaged += 1
        elif position >= recorded:
            acceptances.append(Acceptance(mailing_id, batch_id, message_id, at))
    return JournalContents(DatabaseIdentity(system, database), acceptances, damaged)


def age_seconds(fd: int) -> float:
    """Return how long ago the file was created, or last written by the kernel."""
    return time.time() - os.fstat(fd).st_mtime


def _file_bytes(capacity: int) -> int:
    return HEADER_BYTES + capacity * _RECORD.size
