"""Reads NDJSON (one JSON object per line, UTF-8) as a stream and in little memory.

It has the interface of CsvReader that an import uses; its lines are left to the caller to parse.
"""

import codecs
from collections.abc import Callable, Iterator

from shared.client_import.bad_file import UnreadableFile
from shared.client_import.text_source import READ_BYTES, file_too_large

# Longer lines are not sensible data; the limit bounds memory.
MAX_LINE_BYTES = 64 * 1024


class NdjsonReader:
    """Iterating yields the lines that are not blank, with their numbers.

    `read(n)` returns up to n bytes, none at the end. `extras` are the names of attributes that the
    lines have, which the parser of the lines fills in.
    """

    def __init__(self, read: Callable[[int], bytes], limit: int | None = None):
        self._read = read
        self._limit = limit
        self.size = 0
        self.extras: dict[str, int] = {}
        self.ignored: list[str] = []

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        done, rest = 0, b""
        while chunk := self._read_chunk():
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for at, line in enumerate(lines, done + 1):
                if line and not line.isspace():
                    yield at, line
            done += len(lines)
            if len(rest) > MAX_LINE_BYTES:
                raise _line_too_long(done + 1)
        if rest.strip():
            yield done + 1, rest

    def _read_chunk(self) -> bytes:
        first = not self.size
        chunk = self._read(READ_BYTES)
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise file_too_large(self._limit)
        return chunk.removeprefix(codecs.BOM_UTF8) if first else chunk


def _line_too_long(line: int) -> UnreadableFile:
    return UnreadableFile(
        f"Line {line} is longer than {MAX_LINE_BYTES // 1024} KiB: write one object per line.",
        "line_length",
        line=line,
    )
