"""Opens connections to the provider for requests that found no idle one.

It resolves the name, tries each address for its share of the time, and establishes TLS. The result
is reported by one of two callbacks: `on_ready(connection)`, or `on_failed(request, failure, detail,
now)` for a request that was not sent.
"""

import select
import ssl
from collections.abc import Callable
from typing import Generic
from urllib.parse import SplitResult

import certifi

from worker.provider.http.connection import Connection, ConnectionBroken
from worker.provider.http.dns import Address, Resolver
from worker.provider.http.exchange import RequestT
from worker.provider.outcomes import Failure

MAX_CONNECT_SECONDS = 5.0


class Connector(Generic[RequestT]):
    """Connects for one HTTP client. `connections` is the client's dict, by file descriptor.

    Connections that are being established are in it too. `wake` ends the client's poll.
    """

    def __init__(
        self,
        base_url: SplitResult,
        timeout: float,
        epoll: select.epoll,
        connections: dict[int, Connection[RequestT]],
        wake: Callable[[], None],
        on_ready: Callable[[Connection[RequestT]], None],
        on_failed: Callable[[RequestT, Failure, str, float], None],
    ) -> None:
        https = base_url.scheme == "https"
        self._host = base_url.hostname or ""
        self._tls = ssl.create_default_context(cafile=_ca_file()) if https else None
        self._timeout, self._connect_timeout = timeout, min(timeout, MAX_CONNECT_SECONDS)
        self._epoll, self._connections = epoll, connections
        self._on_ready, self._on_failed = on_ready, on_failed
        self._resolver = Resolver(self._host, base_url.port or (443 if https else 80), wake)
        self._unresolved: list[tuple[RequestT, float]] = []  # requests, and since when they wait

    def connect(self, request: RequestT, now: float) -> None:
        """Start connecting for a request."""
        first = not self._unresolved
        self._unresolved.append((request, now))
        if first:  # later ones are resolved in the next round of the client's loop
            self.resolve(now)

    def refresh_addresses(self) -> None:
        """Look the name up again in time, also if no connection is opened."""
        self._resolver.refresh()

    def resolve(self, now: float) -> None:
        """Start connecting for the requests that waited for an address."""
        if not self._unresolved:
            return
        addresses = self._resolver.addresses()
        waiting, self._unresolved = self._unresolved, []
        for request, since in waiting:
            if addresses:
                self._try_addresses(request, addresses, since, now)
            elif addresses is not None:
                failure = Failure.OPEN_FILES if self._resolver.no_files else Failure.DNS
                self._on_failed(request, failure, self._resolver.error, now)
            elif now - since >= self._connect_timeout:
                self._on_failed(request, Failure.TIMEOUT, "looking up the name", now)
            else:
                self._unresolved.append((request, since))

    def continue_connecting(
        self, connection: Connection[RequestT], events: int, now: float
    ) -> None:
        """Take the next step of a connection that is not ready yet."""
        previous_mask = connection.event_mask
        try:
            connection.continue_connecting(events, self._tls, self._host)
        except ConnectionBroken as error:
            self.try_next_address(connection, error.failure, error.detail, now)
            return
        if connection.event_mask != previous_mask:
            self._epoll.modify(connection.fd, connection.event_mask)
        if connection.ready:
            self._resolver.prefer(connection.address)
            self._on_ready(connection)

    def try_next_address(
        self, connection: Connection[RequestT], failure: Failure, detail: str, now: float
    ) -> None:
        """Close a connection that failed and try the remaining addresses, if any."""
        del self._connections[connection.fd]
        connection.close()
        request, since = connection.request, connection.deadline - self._timeout
        if connection.untried_addresses and now - since < self._connect_timeout:
            self._try_addresses(request, connection.untried_addresses, since, now)
        else:
            self._on_failed(request, failure, detail, now)

    def _try_addresses(
        self, request: RequestT, addresses: list[Address], since: float, now: float
    ) -> None:
        """Start connecting to the first address that does not fail at once."""
        for n, address in enumerate(addresses, 1):
            try:
                connection = Connection(request, address, addresses[n:])
            except ConnectionBroken as error:
                if n == len(addresses):
                    self._on_failed(request, error.failure, error.detail, now)
                continue
            connection.deadline = since + self._timeout
            remaining = since + self._connect_timeout - now
            connection.connect_deadline = now + remaining / (len(addresses) - n + 1)
            self._connections[connection.fd] = connection
            self._epoll.register(connection.fd, connection.event_mask)
            return


def _ca_file() -> str:
    """Return the system's certificate authorities (or SSL_CERT_FILE), else certifi's."""
    return ssl.get_default_verify_paths().cafile or str(certifi.where())
