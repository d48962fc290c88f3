"""A full /tmp does not stop the API: the metrics have a file system of their own."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import requests

from tests.integration.conftest import TOKEN
from tests.support.api_server import COMMAND, settings_of
from tests.support.system import ROOT
from tests.support.waiting import wait_for

CLONE_NEWNS = 0x20000
MS_PRIVATE_RECURSIVE = 0x44000


def may_mount() -> bool:
    """Return whether a process may mount file systems in a namespace of its own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def mount_small_file_systems(*folders: Path) -> Callable[[], None]:
    """Return a preparation that mounts a file system of 2 MiB on each folder, seen by no other."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_PRIVATE_RECURSIVE, None):
            os._exit(1)
        for folder in folders:
            if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=2m,mode=1777"):
                os._exit(1)

    return prepare


def test_a_full_temporary_folder_leaves_the_api_working(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    temporary, metrics = tmp_path / "tmp", tmp_path / "metrics"
    for folder in (temporary, metrics):
        folder.mkdir()
    settings = settings_of(database_url, redis_url)
    settings |= {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TMPDIR": str(temporary)}
    url = f"http://{settings['API_BIND']}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (tmp_path / "api.log").open("wb") as log:
        server = subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            preexec_fn=mount_small_file_systems(temporary, metrics),
        )

    def is_ready() -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{url}/readyz", timeout=2).ok
        return False

    try:
        wait_for(is_ready, 60, "the API")
        # The namespace's files, as its processes see them.
        seen = Path(f"/proc/{server.pid}/root")
        filler = seen / str(temporary / "filler").lstrip("/")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for number in range(60):  # each a new time series, which needs another page of a file
            path = "/api/v1/clients" if number % 2 else "/api/v1/mailings"
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
                requests.request(method, f"{url}{path}", headers=headers, timeout=10)
        assert requests.get(f"{url}/healthz", timeout=5).ok
        assert requests.get(f"{url}/metrics", timeout=5).ok
        assert "SIGBUS" not in (tmp_path / "api.log").read_text()
    finally:
        server.terminate()
        server.wait(15)


# Containers of CI have no right to mount; there, tests/containers/run makes the same check.
test_a_full_temporary_folder_leaves_the_api_working.__test__ = may_mount()  # type: ignore[attr-defined]
