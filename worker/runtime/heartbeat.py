"""A file that says when this process last went round its loop, for whoever may restart it.

A supervisor sees by itself that a process has died; that one hangs, it sees by the age of this
file: <temporary folder>/notifications-<process id>.alive. It costs a system call, and is as true
while Redis and PostgreSQL are away, when a restart would help nobody.
"""

import atexit
import contextlib
import os
import tempfile
from pathlib import Path


def sign() -> Path:
    return Path(tempfile.gettempdir()) / f"notifications-{os.getpid()}.alive"


def beat() -> None:
    """Say that the loop goes round. Where nothing can be written, nobody looks."""
    with contextlib.suppress(OSError):
        sign().touch()


@atexit.register
def _leave() -> None:
    with contextlib.suppress(OSError):
        sign().unlink(missing_ok=True)
