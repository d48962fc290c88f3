"""Choose and probe TCP ports on the loopback interface."""

import itertools
import random
import socket
import threading
from collections.abc import Iterator

# Below the range from which Linux takes ports for outgoing connections, so that no connection
# takes a port that is remembered from the last run.
_CHOICE = range(15_000, 32_000)
_BLOCK_SIZE = 100


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
    """Return a port that is free now, and that neither this nor another process is given.

    Until a server listens on it, and while it restarts, nothing else shows that it is taken.
    """
    with _lock:
        for port in _own_ports:
            if is_free(port):
                return port
    raise OSError(f"no free port between {_CHOICE.start} and {_CHOICE.stop}")


def accepts_connections(port: int) -> bool:
    """Return whether a server listens on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _claim_blocks() -> Iterator[range]:
    """Yield ranges of ports that this process alone hands out, as long as it lives.

    The claim is a socket that is bound to the first port of the block, and never listens.
    """
    for start in random.sample(_CHOICE[::_BLOCK_SIZE], len(_CHOICE[::_BLOCK_SIZE])):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as claim:
            try:
                claim.bind(("127.0.0.1", start))
            except OSError:
                continue
            claim.detach()  # it stays open until the process ends
        yield range(start + 1, start + _BLOCK_SIZE)


_lock = threading.Lock()
_own_ports = itertools.chain.from_iterable(_claim_blocks())
