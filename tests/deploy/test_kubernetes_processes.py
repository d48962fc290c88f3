"""Commands and probes of the Kubernetes manifests, run with real processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from dev.stack.binaries import valkey_server
from dev.stack.ports import free_port
from tests.support.cluster import ROOT, containers, of_kind, read, title
from tests.support.fleet import Fleet
from tests.support.system import Process
from tests.support.waiting import wait_for
from worker.runtime.rq_worker import FleetWorker, stopping

MANIFESTS = read(ROOT / "k8s")
ROLES = ("scheduler", "control", "sweep", "dispatch", "report")


class Pod:
    """A worker process started like by its manifest, with its own /tmp."""

    def __init__(self, role: str, tmp: Path, redis_url: str, database_url: str):
        self.tmp = tmp
        [self.container] = [
            container
            for document in MANIFESTS
            if document["kind"] == "Deployment" and document["metadata"]["name"] == role
            for container in containers(document, init=False)
        ]
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PROVIDER_URL": "http://127.0.0.1:9",
            "PROVIDER_TOKEN": "unused",
            "TMPDIR": str(tmp),
        }
        argv = [sys.executable, *self.container["command"][1:]]
        self.process = Process(role, argv, environment, tmp / "log")

    def probe(self, name: str) -> bool:
        """Return whether a probe of the manifest succeeds. In a container the process has id 1."""
        assert self.process.popen
        here = f"{self.tmp}/notifications-{self.process.popen.pid}."
        command = [
            part.replace("/tmp/notifications-1.", here)
            for part in self.container[name]["exec"]["command"]
        ]
        assert command != self.container[name]["exec"]["command"]
        return subprocess.run(command, check=False).returncode == 0

    def handles_sigterm_in_main_thread(self) -> bool:
        """Return whether all other threads block SIGTERM, so that it always wakes the main one."""
        assert self.process.popen
        main = self.process.popen.pid
        others = [task for task in Path(f"/proc/{main}/task").iterdir() if task.name != str(main)]
        masks = []
        for task in others:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                masks += re.findall(r"^SigBlk:\s*(\w+)$", (task / "status").read_text(), re.M)
        return all(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)

    def age(self) -> None:
        """Make the heartbeat file as old as that of a process that hangs."""
        [file] = self.tmp.glob("notifications-*.alive")
        long_ago = time.time() - 3600
        os.utime(file, (long_ago, long_ago))


@pytest.mark.parametrize("role", ROLES)
def test_probes_detect_whether_the_loop_runs(
    role: str, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    pod = Pod(role, tmp_path, redis_url, database_url)
    pod.process.start()
    try:
        wait_for(lambda: pod.probe("startupProbe"), 20, "the process has started")
        assert pod.probe("livenessProbe")
        wait_for(
            lambda: pod.handles_sigterm_in_main_thread(), 10, "a stop signal wakes the main thread"
        )
        pod.process.signal(signal.SIGSTOP)
        pod.age()
        assert not pod.probe("livenessProbe"), "a process that hangs counts as alive"
        if (
            role == "scheduler"
        ):  # the loops of the others run when a job arrives, or every 45 seconds
            pod.process.signal(signal.SIGCONT)
            wait_for(lambda: pod.probe("livenessProbe"), 10, "the loop runs again")
        pod.process.signal(signal.SIGCONT)
        assert pod.process.stop(within=15) == 0, (tmp_path / "log").read_text()
        assert not pod.probe("startupProbe"), "the heartbeat file outlives its process"
    finally:
        pod.process.kill()


def test_an_idle_worker_stops_whatever_code_the_signal_interrupts(redis_url: str) -> None:
    """For example inside the Redis client, which catches any Exception around its metrics."""
    worker = FleetWorker("control", Redis.from_url(redis_url), redis_url)
    with pytest.raises(SystemExit) as stop, contextlib.suppress(Exception):
        worker.request_stop(signal.SIGTERM, None)
    assert stop.value.code == 0
    stopping.clear()


def test_kedas_query_counts_the_batches_that_a_worker_can_claim(fleet: Fleet) -> None:
    [scaled] = of_kind(read(ROOT / "k8s/optional"), "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    before = fleet.query_value(query)
    mailing = fleet.add_launched_mailing(6, batch_size=2)
    assert fleet.query_value(query) == before + 3
    fleet.claim_batch(mailing)
    assert fleet.query_value(query) == before + 2
    fleet.expire_lease(mailing)
    assert fleet.query_value(query) == before + 3
    fleet.cancel_mailing(mailing)
    assert fleet.query_value(query) == before


def test_redis_starts_with_the_command_of_its_manifest(tmp_path: Path) -> None:
    """The password is in no command line, data is on disk, and signals reach the server."""
    [redis] = [
        c for each in MANIFESTS if title(each) == "StatefulSet/redis" for c in containers(each)
    ]
    port = free_port()
    server = tmp_path / "redis-server"
    server.write_text(f'#!/bin/sh\nexec {valkey_server()} "$@" --port {port} --bind 127.0.0.1\n')
    server.chmod(0o755)
    [script] = redis["args"]
    for inside in ("/run/redis", "/data"):
        assert inside in script
        script = script.replace(inside, str(tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDISCLI_AUTH": "its-password"}
    started = subprocess.Popen([*redis["command"], script], env=environment)
    try:
        client = Redis(port=port, password="its-password", retry=Retry(NoBackoff(), 0))
        wait_for(lambda: answers(client), 10, "Redis accepts its password")
        with pytest.raises(RedisError):
            Redis(port=port).ping()
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert b"its-password" not in Path(f"/proc/{started.pid}/cmdline").read_bytes()
        assert (tmp_path / "password.conf").stat().st_mode & 0o077 == 0
        started.terminate()
        assert started.wait(10) == 0
    finally:
        started.kill()
        started.wait()


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
