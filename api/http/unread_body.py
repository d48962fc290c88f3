"""The rest of a refused request's body: it is not awaited, and a slow client occupies no thread.

What has arrived already is discarded, and the connection stays usable if that was all. Otherwise
the response announces the end of the connection, which then lingers for a moment: closing it while
data arrives would reset it, and the client might lose the response.
"""

import socket
import time
from contextlib import suppress

from flask import Request, Response

MAX_ARRIVED_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 65536
# How long a client that sends on may pause, and how long it is served, at most.
LINGER_PAUSE_SECONDS = 0.05
LINGER_SECONDS = 0.25


def leave_body_unread(request: Request, response: Response) -> None:
    """Discard what has arrived of the body; end the connection if more is to come."""
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return
    stream = request.environ["wsgi.input"]
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None or _discard_arrived(stream, connection):
        return
    stream.force_close()  # set by gunicorn_conf.py
    response.call_on_close(lambda: _linger(connection))


def _discard_arrived(stream: object, connection: socket.socket) -> bool:
    """Read the body without waiting; return whether it has ended."""
    left = MAX_ARRIVED_BYTES
    try:
        connection.setblocking(False)
        while left > 0:
            chunk = stream.read(CHUNK_BYTES)  # type: ignore[attr-defined]
            if not chunk:
                return True
            left -= len(chunk)
    except Exception:  # no data now, a malformed chunk, a closed connection
        return False
    finally:
        with suppress(OSError):
            connection.setblocking(True)
    return False


def _linger(connection: socket.socket) -> None:
    """Discard what still arrives for a moment; then end reading, so that the server need not."""
    deadline = time.monotonic() + LINGER_SECONDS
    with suppress(OSError):
        connection.settimeout(LINGER_PAUSE_SECONDS)
        while time.monotonic() < deadline and connection.recv(CHUNK_BYTES):
            pass
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
