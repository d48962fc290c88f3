"""A file whose age shows a supervisor whether this process still runs its loop.

A supervisor notices by itself that a process has ended; that one hangs it detects by the age of
<temporary folder>/notifications-<process id>.alive. Touching the file costs one system call and
does not depend on Redis or PostgreSQL, whose outage a restart would not end.
"""

import atexit
import contextlib
import os
import tempfile
from pathlib import Path


def heartbeat_path() -> Path:
    return Path(tempfile.gettempdir()) / f"notifications-{os.getpid()}.alive"


def touch_heartbeat() -> None:
    """Update the file's time. Ignore write errors: the file is optional."""
    with contextlib.suppress(OSError):
        heartbeat_path().touch()


@atexit.register
def _remove_heartbeat() -> None:
    with contextlib.suppress(OSError):
        heartbeat_path().unlink(missing_ok=True)
