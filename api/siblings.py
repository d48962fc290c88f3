"""How many connections each process of a server has: they share the knowledge, and so the load.

A kept-alive connection stays with the process that accepted it, so who accepts decides who works.
Asked at once, a process that is awake takes all; hence one with more than another waits a moment.
"""

import mmap
import os
import struct
from contextlib import suppress

ENTRY = struct.Struct("=ii")  # a process' id, and its connections
PLACES = 512


class Siblings:
    """Made before the processes are, which inherit its memory; each then joins at its place."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ENTRY.size * PLACES)
        self._place = 0

    def join(self, number: int) -> None:
        """Take the place of this process; `number` is that of no other one that lives."""
        self._place = number % PLACES * ENTRY.size
        self.tell(0)

    def tell(self, connections: int) -> None:
        """Say how many connections this process has."""
        ENTRY.pack_into(self._memory, self._place, os.getpid(), connections)

    def have_fewer(self, connections: int) -> bool:
        """Whether another process that lives has fewer connections than that."""
        own = os.getpid()
        return any(
            pid not in (0, own) and open_ < connections and _lives(pid)
            for pid, open_ in ENTRY.iter_unpack(self._memory[:])
        )


def _lives(pid: int) -> bool:
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False
