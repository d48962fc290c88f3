"""Makes connections to the provider for requests that found no idle one.

It looks the name up, tries each address for its share of the time, and brings TLS up. What comes
of it is told by two calls: `ready` with a connection, or `failed` with a request that has not left.
"""

import select
import ssl
from collections.abc import Callable
from typing import Protocol
from urllib.parse import SplitResult

import certifi

from worker.provider.http.connection import Broken, Connection
from worker.provider.http.dns import Address, Resolver
from worker.provider.http.exchange import Request
from worker.provider.outcomes import Failure

MAX_CONNECT_SECONDS = 5.0


class Failed(Protocol):
    def __call__(self, request: Request, failure: Failure, detail: str, now: float) -> None: ...


class Connector:
    """`connections` is the engine's, by descriptor; all that connect are in it too."""

    def __init__(
        self,
        address: SplitResult,
        timeout: float,
        epoll: select.epoll,
        connections: dict[int, Connection],
        wake: Callable[[], None],
        ready: Callable[[Connection], None],
        failed: Failed,
    ) -> None:
        https = address.scheme == "https"
        self._host = address.hostname or ""
        self._tls = ssl.create_default_context(cafile=_ca_file()) if https else None
        self._timeout, self._connect_timeout = timeout, min(timeout, MAX_CONNECT_SECONDS)
        self._epoll, self._connections = epoll, connections
        self._ready, self._failed = ready, failed
        self._resolver = Resolver(self._host, address.port or (443 if https else 80), wake)
        self._unresolved: list[tuple[Request, float]] = []  # and since when

    def connect(self, request: Request, now: float) -> None:
        """Begin to make a connection for a request."""
        first = not self._unresolved
        self._unresolved.append((request, now))
        if first:  # the others' turn comes with the next round of the engine's
            self.resolve(now)

    def resolve(self, now: float) -> None:
        """Begin to connect for those who waited for an address."""
        if not self._unresolved:
            return
        addresses = self._resolver.addresses()
        waiting, self._unresolved = self._unresolved, []
        for request, since in waiting:
            if addresses:
                self._try(request, addresses, since, now)
            elif addresses is not None:
                self._failed(request, Failure.DNS, self._resolver.error, now)
            elif now - since >= self._connect_timeout:
                self._failed(request, Failure.TIMEOUT, "looking up the name", now)
            else:
                self._unresolved.append((request, since))

    def go_on(self, connection: Connection, events: int, now: float) -> None:
        """The next step of a connection that is not ready yet."""
        wanted = connection.wants
        try:
            connection.go_on(events, self._tls, self._host)
        except Broken as why:
            self.give_up(connection, why.failure, why.detail, now)
            return
        if connection.wants != wanted:
            self._epoll.modify(connection.fd, connection.wants)
        if connection.ready:
            self._resolver.prefer(connection.address)
            self._ready(connection)

    def give_up(self, connection: Connection, failure: Failure, detail: str, now: float) -> None:
        """This address is no good: try the others, if there are any."""
        del self._connections[connection.fd]
        connection.close()
        request, since = connection.request, connection.ends_by - self._timeout
        if connection.untried and now - since < self._connect_timeout:
            self._try(request, connection.untried, since, now)
        else:
            self._failed(request, failure, detail, now)

    def _try(self, request: Request, addresses: list[Address], since: float, now: float) -> None:
        """Begin to connect to the first of `addresses` that does not fail at once."""
        for n, address in enumerate(addresses, 1):
            try:
                connection = Connection(address, addresses[n:])
            except Broken as why:
                if n == len(addresses):
                    self._failed(request, why.failure, why.detail, now)
                continue
            connection.request = request
            connection.ends_by = since + self._timeout
            left = since + self._connect_timeout - now
            connection.connect_by = now + left / (len(addresses) - n + 1)
            self._connections[connection.fd] = connection
            self._epoll.register(connection.fd, connection.wants)
            return


def _ca_file() -> str:
    """The system's certificate authorities (SSL_CERT_FILE names others), else certifi's."""
    return ssl.get_default_verify_paths().cafile or str(certifi.where())
