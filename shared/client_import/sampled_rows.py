"""Rows of a file of which the first are looked at before all are read."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple


class FileRow(NamedTuple):
    """One row: its number, and its cells, or the error in its quotes."""

    line: int
    cells: list[str]
    fault: str | None = None


class SampledRows:
    """Iterating yields all rows once, those of `sample` included; a subclass reads them."""

    def __init__(self) -> None:
        self._sample: Sequence[FileRow] = ()
        self._rest: Iterator[FileRow] | None = None

    def sample(self, count: int) -> list[list[str]]:
        """Return the cells of the first rows; call it before iterating."""
        self._rest = self._read_rows()
        self._sample = list(islice(self._rest, count))
        return [list(row.cells) for row in self._sample]

    def __iter__(self) -> Iterator[FileRow]:
        return self._read_rows() if self._rest is None else chain(self._sample, self._rest)

    def _read_rows(self) -> Iterator[FileRow]:
        raise NotImplementedError
