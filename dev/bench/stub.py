"""A provider that does nothing but accept, fast enough not to be what is measured.

`python -m dev.bench.stub --port PORT --token TOKEN`. It checks each message as far as the contract
goes (path, token, id), remembers the ids, and answers at once or after a latency. Its door
`/control` is the part of the simulated provider's that a benchmark needs.
"""

import argparse
import json
import select
import signal
import socket
import time
from collections import deque

_POST = b"POST /v1/send/"
_BODY = b'{"code":0,"message":"OK"}'
_OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)  # fmt: skip
_NO = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


class Stub:
    """One thread, one epoll."""

    def __init__(self, port: int, token: str) -> None:
        self._authorization = f"Authorization: Bearer {token}\r\n".encode()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._late: deque[tuple[float, int, bytes]] = deque()
        self._latency = 0.0
        self._clear()

    def _clear(self) -> None:
        self._received = self._refused = 0
        self._ids: set[int] = set()
        self._first_at: float | None = None

    def run(self) -> None:
        """Answer for ever."""
        sockets, late = self._sockets, self._late
        while True:
            patience = -1.0 if not late else max(late[0][0] - time.monotonic(), 0.0)
            for fd, _ in self._epoll.poll(patience):
                connection = sockets.get(fd)
                if connection is None:
                    self._accept()
                    continue
                try:
                    data = connection.recv(16384)
                except ConnectionError:
                    data = b""
                if not data:
                    self._close(fd)
                    continue
                answer = self._answer(fd, data)
                if not answer:
                    continue
                if self._latency:
                    late.append((time.monotonic() + self._latency, fd, answer))
                else:
                    connection.send(answer)
            now = time.monotonic() if late else 0.0
            while late and late[0][0] <= now:
                _, fd, answer = late.popleft()
                if fd in sockets:
                    sockets[fd].send(answer)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _close(self, fd: int) -> None:
        self._partial.pop(fd, None)
        self._sockets.pop(fd).close()

    def _answer(self, fd: int, data: bytes) -> bytes:
        """The answer to a message; nothing while it is not whole."""
        if self._partial:
            data = self._partial.pop(fd, b"") + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or (data[-1:] != b"}" and not data.startswith((b"GET", b"DELETE"))):
            self._partial[fd] = data
            return b""
        if not data.startswith(_POST):
            return self._control(data[:end], data[end + 4 :])
        message_id = data[14 : data.index(b" ", 14)]
        start = b'{"id":%b,"phone":7' % message_id
        if not data.startswith(start, end + 4) or self._authorization not in data:
            self._refused += 1
            return _NO
        if self._first_at is None:
            self._first_at = time.time()
        self._received += 1
        self._ids.add(int(message_id))
        return _OK

    def _control(self, head: bytes, body: bytes) -> bytes:
        method, path, _ = head.split(b" ", 2)
        if method == b"PUT":
            self._latency = json.loads(body)["latency"]
        elif method == b"DELETE" and path == b"/control/requests":
            self._clear()
        state = {
            "received": self._received,
            "refused": self._refused,
            "distinct": len(self._ids),
            "first_at": self._first_at,
        }
        answer = json.dumps(state).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.stub", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Stub(options.port, options.token).run()


if __name__ == "__main__":
    main()
