"""A TCP proxy whose network a test can cut, and whose target it can change."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

# The kernel gives a connection up after so long without an answer; the product sets it for its
# connections to PostgreSQL (tcp_user_timeout and keepalives).
DEAD_CONNECTION_SECONDS = 10.0


class TcpProxy:
    """Forwards connections to 127.0.0.1:`target_port()`.

    While the network is cut, nothing is forwarded in either direction, and new connections hang,
    as if packets were dropped. A connection that was cut for DEAD_CONNECTION_SECONDS is closed on
    the client's side; what the client sent meanwhile is lost. The server's side stays open.
    """

    def __init__(self, target_port: Callable[[], int]) -> None:
        self._target_port = target_port
        self._connected = threading.Event()
        self._connected.set()
        self._cut_at = 0.0
        self._closed = False
        self._servers_left: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; connections that are open stay open until one side closes."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.restore()
        for server in self._servers_left:
            server.close()

    def cut(self) -> None:
        """Cut the network between the clients and the target."""
        self._cut_at = time.monotonic()
        self._connected.clear()

    def restore(self) -> None:
        """Restore the network."""
        self._connected.set()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._open, args=(client,), daemon=True).start()

    def _open(self, client: socket.socket) -> None:
        if not self._wait_for_network(since=time.monotonic()):
            close_sockets(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port()), 5)
        except OSError:
            close_sockets(client)
            return
        server.settimeout(None)
        for source, target in ((client, server), (server, client)):
            threading.Thread(
                target=self._forward, args=(source, target, client, server), daemon=True
            ).start()

    def _forward(
        self,
        source: socket.socket,
        target: socket.socket,
        client: socket.socket,
        server: socket.socket,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._wait_for_network(since=self._cut_at):
                    break
                target.sendall(data)
        if self._wait_for_network(since=self._cut_at):
            close_sockets(client, server)
        else:
            self._servers_left.append(server)  # it does not learn that its client is gone
            close_sockets(client)

    def _wait_for_network(self, since: float) -> bool:
        """Wait while the network is cut; return False if it still is after a while."""
        while not self._connected.is_set():
            if time.monotonic() > since + DEAD_CONNECTION_SECONDS:
                return False
            self._connected.wait(0.05)
        return True


def close_sockets(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
