"""A server of raw bytes on a real socket: a script in a thread handles each connection."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Self-signed for localhost and 127.0.0.1, valid until 2126; used only here.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgD+b1+zFbTqyriZYl
/PzEXg+aj+MXZg/kWFIRWJDIslWhRANCAAS6ODdJ4btoZ0iXd8ua5xZToOCAhCL0
b/amyQosOMUEkN4nqmXMTE+FYBLi4iIUpJ5aIR7TKKJu1qCszGJ3ft3G
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUZFXf/jM5p+L+qPK1aqgWMBwU1y8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzE0MjUxN1oYDzIxMjYxMDMw
MTQyNTE3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAS6ODdJ4btoZ0iXd8ua5xZToOCAhCL0b/amyQosOMUEkN4nqmXMTE+F
YBLi4iIUpJ5aIR7TKKJu1qCszGJ3ft3Go28wbTAdBgNVHQ4EFgQUkNFd/HD5Fx7U
ZvzyBkctKGZYd/gwHwYDVR0jBBgwFoAUkNFd/HD5Fx7UZvzyBkctKGZYd/gwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhANsKLBf1j8bj1HGJTLHgHcvP3haFfLuRxKM1TdrGBy6jAiEA
jot5LhK1ED3Bm24JoOTDB4PtUQfx0mPgiDPhcOmWe+Y=
-----END CERTIFICATE-----
"""

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"code":0,"message":"OK"}'


def make_response(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def reset_connection(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class RawServer:
    """Calls `script(connection, server)` for each accepted connection, and then closes it."""

    def __init__(
        self,
        script: Callable[[socket.socket, "RawServer"], None],
        tls: str = "",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls)
        self._listener = socket.create_server((host, port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Shut every open connection down without sending anything."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def receive(self, connection: socket.socket) -> bytes | None:
        """Read and record the next complete request; None once the client has closed."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(body) < length:
            body += connection.recv(65536)
        request = head + b"\r\n\r\n" + body
        self.requests.append(request)
        return request

    def wait_for(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true in time"
            time.sleep(0.005)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(
                target=self._handle_connection, args=(connection,), daemon=True
            ).start()

    def _handle_connection(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with contextlib.suppress(OSError):
            if self._context is not None:
                self._open.discard(connection)
                connection = self._context.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            self.script(connection, self)
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def respond(*responses: bytes) -> Callable[[socket.socket, RawServer], None]:
    """Return a script that sends the next response (at the end the last one) to each request."""

    def script(connection: socket.socket, server: RawServer) -> None:
        while server.receive(connection) is not None:
            connection.sendall(responses[min(len(server.requests), len(responses)) - 1])

    return script


def respond_once(data: bytes) -> Callable[[socket.socket, RawServer], None]:
    """Return a script that reads a request, sends `data` and closes."""

    def script(connection: socket.socket, server: RawServer) -> None:
        if server.receive(connection) is not None:
            connection.sendall(data)

    return script


def write_certificate(folder: Path) -> str:
    path = folder / "localhost.pem"
    path.write_text(CERTIFICATE)
    return str(path)
