"""Where the provider is: its addresses, looked up on a thread of their own, so that nobody waits.

An answer is good for KEEP_SECONDS. When none can be had, the last good one stays in use: a name
server that is away for a while does not stop a provider that is not.
"""

import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

KEEP_SECONDS = 30.0
FAILURE_SECONDS = 1.0  # before a failed look-up is tried again


class Address(NamedTuple):
    """What a socket needs to connect."""

    family: int
    sockaddr: tuple[Any, ...]


class Resolver:
    """The addresses of one host, the one that worked last in front.

    `done` is called from the thread whenever a look-up has ended.
    """

    def __init__(self, host: str, port: int, done: Callable[[], None]) -> None:
        self._host, self._port, self._done = host, port, done
        self._addresses: list[Address] = []
        self._error = ""
        self._expires = 0.0
        self._looking = False
        self._lock = threading.Lock()
        try:
            self._addresses = _look_up(host, port, socket.AI_NUMERICHOST)
            self._expires = float("inf")  # a number needs no looking up
        except (OSError, UnicodeError):
            pass

    def addresses(self) -> list[Address] | None:
        """Where to try, in this order. None: not known yet. Empty: `error` says why not."""
        with self._lock:
            stale = monotonic() >= self._expires
            if stale and not self._looking:
                self._looking = True
                threading.Thread(target=self._refresh, name="resolver", daemon=True).start()
            return None if stale and not self._addresses else list(self._addresses)

    @property
    def error(self) -> str:
        """Why the last look-up failed."""
        return self._error

    def prefer(self, address: Address) -> None:
        """This one works: try it first from now on."""
        addresses = self._addresses
        if addresses and addresses[0] != address and address in addresses:
            with self._lock:
                self._addresses = [address, *(a for a in self._addresses if a != address)]

    def _refresh(self) -> None:
        try:
            found, error, keep = _look_up(self._host, self._port), "", KEEP_SECONDS
        except (OSError, UnicodeError) as why:
            found, error, keep = [], str(why), FAILURE_SECONDS
        with self._lock:
            if found:
                first = [a for a in self._addresses[:1] if a in found]
                self._addresses = first + [a for a in found if a not in first]
            self._error = error
            self._expires = monotonic() + keep
            self._looking = False
        self._done()


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))
