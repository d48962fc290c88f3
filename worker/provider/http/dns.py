"""Resolves the provider's name on a thread of its own, so that the sending loop never waits.

Addresses are cached for CACHE_SECONDS and looked up again at that age, used or not. When a lookup
fails, the last known addresses stay in use: an outage of the name server does not stop a provider
that works.
"""

import errno
import os
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

CACHE_SECONDS = 15.0
RETRY_SECONDS = 1.0  # before a failed lookup is repeated


class Address(NamedTuple):
    """The arguments a socket needs to connect."""

    family: int
    sockaddr: tuple[Any, ...]


class Resolver:
    """The addresses of one host, the one that worked last first.

    `on_resolved` is called in the resolver's thread after each lookup.
    """

    def __init__(self, host: str, port: int, on_resolved: Callable[[], None]) -> None:
        self._host, self._port, self._on_resolved = host, port, on_resolved
        self._addresses: list[Address] = []
        self._expires_at = 0.0
        self._resolving = False
        self._lock = threading.Lock()
        self.error = ""  # why the last lookup failed
        self.no_files = False  # it failed because this process or machine has no free descriptor
        try:
            self._addresses = _resolve(host, port, socket.AI_NUMERICHOST)
            self._expires_at = float("inf")  # a numeric address needs no lookup
        except (OSError, UnicodeError):
            pass

    def addresses(self) -> list[Address] | None:
        """Return the addresses to try, in order; None: not known yet; empty: see `error`."""
        with self._lock:
            stale = self._look_up_if_stale()
            return None if stale and not self._addresses else list(self._addresses)

    def refresh(self) -> None:
        """Start a lookup if the addresses are old."""
        with self._lock:
            self._look_up_if_stale()

    def _look_up_if_stale(self) -> bool:
        stale = monotonic() >= self._expires_at
        if stale and not self._resolving:
            self._resolving = True
            threading.Thread(target=self._look_up, name="resolver", daemon=True).start()
        return stale

    def prefer(self, address: Address) -> None:
        """Try this address first from now on."""
        addresses = self._addresses
        if addresses and addresses[0] != address and address in addresses:
            with self._lock:
                self._addresses = [address, *(a for a in self._addresses if a != address)]

    def _look_up(self) -> None:
        no_files = False
        try:
            found, error, valid_for = _resolve(self._host, self._port), "", CACHE_SECONDS
        except (OSError, UnicodeError) as why:
            found, error, valid_for = [], str(why), RETRY_SECONDS
            no_files = _lacks_files()
        with self._lock:
            if found:
                preferred = [a for a in self._addresses[:1] if a in found]
                self._addresses = preferred + [a for a in found if a not in preferred]
            self.error, self.no_files = error, no_files
            self._expires_at = monotonic() + valid_for
            self._resolving = False
        self._on_resolved()


def _resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found))


def _lacks_files() -> bool:
    """Return whether no file can be opened: a lookup that fails for that reason does not say so."""
    try:
        os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
