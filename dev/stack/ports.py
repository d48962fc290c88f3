"""Choose and probe TCP ports on the loopback interface."""

import random
import socket

# Below the range from which Linux takes ports for outgoing connections, so that no connection
# takes a port that is remembered from the last run.
_CHOICE = range(15_000, 32_000)


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that old connections in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free now, chosen at random."""
    for _ in range(1000):
        port = random.choice(_CHOICE)  # noqa: S311 (no secret)
        if is_free(port):
            return port
    raise OSError("no free port between 15000 and 32000")


def accepts_connections(port: int) -> bool:
    """Return whether a server listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
