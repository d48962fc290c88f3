"""A real nginx with the shipped configuration, in front of an API under test."""

import os
import re
import signal
import subprocess
from pathlib import Path

from dev.stack.ports import free_port
from tests.support.programs import require_program
from tests.support.system import ROOT
from tests.support.waiting import wait_for

SHIPPED = ROOT / "deploy" / "nginx" / "nginx.conf"


class Nginx:
    """The shipped configuration with another address of the API, and with shorter times."""

    def __init__(self, directory: Path, api: str, seconds: dict[str, int] | None = None) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.log = directory / "nginx.log"
        text = SHIPPED.read_text()
        changes = {
            r"http://api:8000": f"http://{api}",
            r"listen 8080": f"listen {self.address}",
            r"resolver [^;]+;": "",
            r"/tmp/": f"{directory}/",
            r"/dev/(stdout|stderr)": f"{directory}/nginx.log",
            r"worker_processes \d": "worker_processes 1",
        }
        for name, value in (seconds or {}).items():
            changes[rf"(?<=\b{name} )\d+s"] = f"{value}s"
        for pattern, replacement in changes.items():
            text, found = re.subn(pattern, replacement, text)
            assert found, f"{SHIPPED} has no {pattern}"
        self.configuration = directory / "nginx.conf"
        self.configuration.write_text(text)

    def start(self) -> None:
        command = [
            require_program("nginx"),
            "-p",
            str(self.directory),
            "-c",
            str(self.configuration),
        ]
        # Workers of a root master would run as another user, who cannot enter this directory.
        options = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [*command, "-e", str(self.log), "-g", options], stdout=output, stderr=output
            )
        wait_for(self._listens, 10, "nginx")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return (self.directory / "nginx.pid").exists()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
