"""The compose project that `run` tests: access to the engine, the API and the provider."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT = f"notifications-check-{os.getpid()}"
# The demo token of docker-compose.yml: the first start must need no preparation.
TOKEN = "demo-bootstrap-token"
# Our services, with their numbers of containers.
OURS = {
    **{"api": 1, "scheduler": 1, "control": 1, "sweep": 1, "dispatch": 2, "report": 1},
    **{"provider": 1, "openid": 1, "mail": 1},
}
SERVERS = ("postgres", "redis", "nginx")


class Failed(Exception):
    """A check failed; the message says which."""


def report(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def require(holds: object, text: str) -> None:
    if not holds:
        raise Failed(text)


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true value of `condition`; raise Failed after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.3)  # between two looks; the deadline is above
    raise Failed(f"not within {seconds:g} s: {what}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def find_compose() -> list[str] | None:
    """Return the command of docker-compose, or None if no engine answers."""
    if not shutil.which("docker"):
        return None
    for argv in (["docker", "info"], ["docker", "compose", "version"]):
        found = subprocess.run(argv, capture_output=True, check=False).returncode == 0
        if argv[1] == "info" and not found:
            return None
    if found:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def clean_checkout(target: Path) -> str:
    """Copy a clean clone into `target`, or the checkout with its changes; return which."""
    git = ["git", "-C", str(ROOT)]
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=True)
    if not changed.stdout:
        subprocess.run(
            ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(target)], check=True
        )
        return "a clean clone"
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return "a copy of this checkout with its changes"


def docker(*arguments: str, timeout: float = 120) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    require(
        done.returncode == 0, f"docker {' '.join(arguments[:3])}: {done.stderr.strip()[-1000:]}"
    )
    return done.stdout


def inspect(container: str) -> dict[str, Any]:
    return json.loads(docker("inspect", container))[0]


def health(container: str) -> str:
    return str(inspect(container)["State"].get("Health", {}).get("Status"))


class Stack:
    """The compose project under test."""

    def __init__(self, compose: list[str], directory: Path):
        self.port, openid, self.mail_port = free_port(), free_port(), free_port()
        self._argv = [*compose, "--project-name", PROJECT]
        self._directory = directory
        # Without the caller's settings: the test is a first start without preparation.
        used = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines()}
        kept = {name: value for name, value in os.environ.items() if name not in used}
        # Ports of its own, beside those of a stack that runs already.
        self.env = {
            **kept,
            "COMPOSE_INTERACTIVE_NO_CLI": "1",
            "API_PORT": str(self.port),
            # Few enough that a mailing is not over before its dispatcher is killed.
            "PROVIDER_CONCURRENCY": "64",
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "OPENID_PORT": str(openid),
            "OIDC_ISSUER": f"http://openid.localhost:{openid}",
            "MAIL_PORT": str(self.mail_port),
            "PROVIDER_PORT": str(free_port()),
            "GRAFANA_PORT": str(free_port()),
            # The checks call the API faster than callers may.
            "REQUESTS_PER_SECOND": "0",
        }
        if "PIP_INDEX_URL" in os.environ:
            self.env["PIP_INDEX_URL"] = os.environ["PIP_INDEX_URL"]
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._used: dict[int, float] = {}

    def run(self, *arguments: str, timeout: float = 120, **env: str) -> tuple[int, str]:
        """Run docker-compose; return its exit status and output."""
        done = subprocess.run(
            [*self._argv, *arguments],
            cwd=self._directory,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def compose(self, *arguments: str, timeout: float = 120, **env: str) -> str:
        status, said = self.run(*arguments, timeout=timeout, **env)
        if status != 0:
            raise Failed(f"compose {' '.join(arguments)} ended with {status}:\n{said[-3000:]}")
        return said

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers, running or not."""
        return docker(
            *("ps", "-aq", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={PROJECT}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
        ).split()

    def api(self, method: str, path: str, body: Any = None, thread: int = 0) -> Any:
        """Call /api/v1 or, for a path that begins with `//`, the root; return the answer."""
        connection = self._connections.setdefault(
            thread, http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        )
        if time.monotonic() - self._used.get(thread, 0) > 5:
            connection.close()  # the API may have closed an idle one; the next request opens it
        target = path[1:] if path.startswith("//") else "/api/v1" + path
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            self._used[thread] = time.monotonic()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if answer.status == 429:
            # On a quick machine this is more than the proxy permits an address.
            time.sleep(float(answer.headers.get("Retry-After", 1)))  # as the answer asks
            return self.api(method, path, body, thread)
        require(answer.status < 300, f"{method} {path}: {answer.status} {text.decode()[:500]}")
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def is_ready(self) -> bool:
        try:
            return self.api("GET", "//readyz")["status"] == "ready"
        except (OSError, http.client.HTTPException, Failed):
            return False

    def provider(self, method: str, path: str, body: Any = None) -> Any:
        """Call the control API of the simulated provider, from inside its container."""
        program = (
            "import sys, urllib.request as u; m, p, b = sys.argv[1:];"
            "r = u.Request('http://127.0.0.1:8090' + p, b.encode() or None, method=m);"
            "print(u.urlopen(r, timeout=10).read().decode())"
        )
        text = "" if body is None else json.dumps(body)
        [container] = self.containers("provider")
        return json.loads(docker("exec", container, "python", "-c", program, method, path, text))

    def start(self, *arguments: str) -> float:
        """Run `up` and wait until every container is healthy; return the seconds it took."""
        began = time.monotonic()
        # Version 2 waits by itself; its exit status tells whether everything is healthy.
        waits = ("--wait",) if self._argv[:2] == ["docker", "compose"] else ()
        self.compose("up", "-d", *waits, *arguments, timeout=1200)
        if not waits:
            wait_for(self.is_ready, 120, "the API is ready")
        for service in (*SERVERS, *OURS):
            for container in self.containers(service):
                wait_for(lambda c=container: health(c) == "healthy", 90, f"{service} is healthy")
        require(self.is_ready(), "the API is not ready")
        return time.monotonic() - began

    def create_mailing(self, tag: str) -> int:
        now = datetime.now(UTC)
        made = self.api(
            "POST",
            "/mailings",
            {
                "text": "Hello",
                "start_at": now.isoformat(),
                "end_at": (now + timedelta(hours=1)).isoformat(),
                "filter": {"operator_codes": [], "tags": [tag]},
            },
        )
        return int(made["id"])

    def statistics(self, mailing: int) -> dict[str, Any]:
        return self.api("GET", f"/mailings/{mailing}/statistics")

    def wait_sent(self, mailing: int, number: int, seconds: float) -> dict[str, Any]:
        """Wait until the mailing is finished, and check that everything was sent and adds up."""

        def finished() -> dict[str, Any] | None:
            now = self.statistics(mailing)
            return now if now["status"] == "finished" else None

        end = wait_for(finished, seconds, f"mailing {mailing} is finished")
        right = end["audience"] == number == end["counts"]["sent"] == sum(end["counts"].values())
        require(right, f"mailing {mailing} of {number} ended as {end}")
        return end

    def add_clients(self, numbers: range, tag: str) -> None:
        def add(thread: int) -> None:
            for number in numbers[thread::4]:
                client = {"phone": str(number), "tag": tag, "timezone": "Europe/Moscow"}
                self.api("POST", "/clients", client, thread)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(4)))

    def remove(self) -> None:
        """Remove everything of this project, of all profiles."""
        self.compose(
            "--profile", "monitoring", "down", "--volumes", "--remove-orphans", timeout=300
        )
        left = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
        require(not left, "containers were not removed")
