"""Limits of a workbook (.xlsx), checked before it is read, so that a small file fills no memory.

A workbook is an archive of XML. Its reader keeps one row or one shared string in memory at a time,
and everything outside of them; so each is bounded here, as are the whole and its compression.
"""

import zipfile
from typing import IO
from xml.parsers import expat

from shared.client_import.bad_file import UnreadableFile

MIB = 2**20
MAX_PARTS = 2_000
MAX_EXPANDED_BYTES = 512 * MIB
# Repetitive sheets of millions of cells are compressed 30 times, archives of zeros 1,000 times.
MAX_RATIO = 200
MAX_SMALL_BYTES = 16 * MIB
# Bytes of XML: of a row or a shared string, of all that is outside of them, of all strings.
MAX_UNIT_BYTES = 4 * MIB
MAX_OUTSIDE_BYTES = 8 * MIB
MAX_STRINGS_BYTES = 128 * MIB
MAX_CELLS = 20_000_000
SCANNED_BYTES = MIB
READ_BYTES = 256 * 1024
# What is read one by one: the rows of a sheet and the strings that its cells share.
UNITS = {"worksheet": "row", "sst": "si"}


def check_workbook(file: IO[bytes], size: int) -> None:
    """Check the archive of a workbook of `size` bytes. Raise UnreadableFile."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            expanded = sum(part.file_size for part in parts)
            if len(parts) > MAX_PARTS or expanded > MAX_EXPANDED_BYTES:
                raise too_complex()
            if expanded > MAX_SMALL_BYTES and expanded > size * MAX_RATIO:
                raise too_complex()
            for part in parts:
                if part.file_size > SCANNED_BYTES and not part.is_dir():
                    with archive.open(part) as stream:
                        _PartScanner().scan(stream)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        raise damaged() from None


def too_complex() -> UnreadableFile:
    """Return the error of a workbook that exceeds a limit."""
    return UnreadableFile(
        "The workbook is too large when it is unpacked: keep the sheet of clients only, or save it "
        "as CSV UTF-8 and send that.",
        "workbook_too_large",
    )


def damaged() -> UnreadableFile:
    """Return the error of a file that is no workbook, or cannot be read."""
    return UnreadableFile(
        "The file is not an Excel workbook (.xlsx), or is damaged: save it again as .xlsx, or as "
        "CSV UTF-8.",
        "workbook_damaged",
    )


class _PartScanner:
    """Reads a part of the archive as XML, and counts the bytes in it by what holds them."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_entities
        self._unit: str | None = None
        self._is_root = True
        self._strings = False
        self._begun: int | None = None
        self._ended = self._outside = self._cells = 0

    def scan(self, stream: IO[bytes]) -> None:
        fed = 0
        while chunk := stream.read(READ_BYTES):
            fed += len(chunk)
            try:
                self._parser.Parse(chunk, False)
            except expat.ExpatError:
                if self._is_root and fed <= READ_BYTES:
                    return self._check_other(stream, fed)  # a picture: it is never read
                raise damaged() from None
            at = self._parser.CurrentByteIndex
            begun = self._ended if self._begun is None else self._begun
            limit = MAX_OUTSIDE_BYTES if self._begun is None else MAX_UNIT_BYTES
            if fed - at > MAX_UNIT_BYTES or at - begun > limit:
                raise too_complex()
        if self._strings and fed > MAX_STRINGS_BYTES:
            raise too_complex()
        return None

    def _check_other(self, stream: IO[bytes], fed: int) -> None:
        while chunk := stream.read(READ_BYTES):
            fed += len(chunk)
            if fed > MAX_OUTSIDE_BYTES:
                raise too_complex()

    def _start(self, name: str, _: object) -> None:
        name = name.rpartition(":")[2]
        if self._begun is None:
            if name == self._unit:
                at = self._parser.CurrentByteIndex
                self._outside += at - self._ended
                self._begun = at
                if self._outside > MAX_OUTSIDE_BYTES:
                    raise too_complex()
            elif self._is_root:
                self._is_root = False
                self._unit = UNITS.get(name)
                self._strings = name == "sst"
        elif name == "c":
            self._cells += 1
            if self._cells > MAX_CELLS:
                raise too_complex()
        elif name == self._unit:  # one in another is never complete
            raise damaged()

    def _end(self, name: str) -> None:
        if self._begun is not None and name.rpartition(":")[2] == self._unit:
            self._ended = self._parser.CurrentByteIndex
            if self._ended - self._begun > MAX_UNIT_BYTES:
                raise too_complex()
            self._begun = None

    def _refuse_entities(self, *_: object) -> None:
        raise damaged()
