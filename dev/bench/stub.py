"""A provider that only accepts messages, fast enough not to be the bottleneck of a measurement.

`python -m dev.bench.stub --port PORT --token TOKEN`. It checks each message's path, token and id,
counts the ids, and answers immediately or after a latency. Its `/control` is the part of the
simulated provider's that the benchmark needs.
"""

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

_POST = b"POST /v1/send/"
_BODY = b'{"code":0,"message":"OK"}'
_OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)  # fmt: skip
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


class Stub:
    """The state that all connections share."""

    def __init__(self, token: str, loop: asyncio.AbstractEventLoop) -> None:
        self.authorization = f"Authorization: Bearer {token}\r\n".encode()
        self.loop = loop
        self.latency = 0.0
        self.clear()

    def clear(self) -> None:
        self.received = self.refused = 0
        self.ids: set[int] = set()
        self.first_at: float | None = None

    def control(self, head: bytes, body: bytes) -> bytes:
        """Answer a request to /control: PUT sets the latency, DELETE clears the counters."""
        method, path, _ = head.split(b" ", 2)
        if method == b"PUT":
            self.latency = json.loads(body)["latency"]
        elif method == b"DELETE" and path == b"/control/requests":
            self.clear()
        state = {
            "received": self.received,
            "refused": self.refused,
            "distinct": len(self.ids),
            "first_at": self.first_at,
        }
        answer = json.dumps(state).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)


class StubConnection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._partial = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or (data[-1:] != b"}" and not data.startswith((b"GET", b"DELETE"))):
            self._partial = data
            return
        self._partial = b""
        stub = self._stub
        if not data.startswith(_POST):
            self._transport.write(stub.control(data[:end], data[end + 4 :]))
            return
        message_id = data[14 : data.index(b" ", 14)]
        start = b'{"id":%b,"phone":7' % message_id
        if not data.startswith(start, end + 4) or stub.authorization not in data:
            stub.refused += 1
            self._transport.write(_BAD_REQUEST)
            return
        if stub.first_at is None:
            stub.first_at = time.time()
        stub.received += 1
        stub.ids.add(int(message_id))
        if stub.latency:
            stub.loop.call_later(stub.latency, self._transport.write, _OK)
        else:
            self._transport.write(_OK)


async def serve(port: int, token: str) -> None:
    """Answer until the process is ended."""
    loop = asyncio.get_running_loop()
    stub = Stub(token, loop)
    server = await loop.create_server(lambda: StubConnection(stub), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.stub", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.token))


if __name__ == "__main__":
    main()
