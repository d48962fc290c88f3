"""gunicorn's configuration: gunicorn -c api/gunicorn_conf.py 'api:create_app()'.

API_BIND and WEB_CONCURRENCY (processes) come from the environment; options on the command line
override what is said here.
"""

import os
import select
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

from shared import logs
from shared.settings import ApiSettings, load_settings

settings = load_settings(ApiSettings)  # here too, so that a bad one stops everything in one line
logs.configure("api", settings.log_level, settings.log_format)

# For so long a thread waits for the next request of the connection it has just answered.
LINGER_MS = 2

METRICS = "PROMETHEUS_MULTIPROC_DIR"
own_metrics = METRICS not in os.environ
# Set before anything imports prometheus_client, which decides by it how to keep numbers.
if own_metrics:
    os.environ[METRICS] = tempfile.mkdtemp(prefix="api-metrics-")


class PlainLogger(Logger):
    """gunicorn's own messages go where ours go. Requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Worker(ThreadWorker):
    """A thread stays with a connection that asks again at once.

    gunicorn hands each request from its main thread to another and back, which takes about as long
    as the request itself.
    """

    def handle(self, conn: TConn) -> object:
        while (kept := super().handle(conn)) is True and self._asks_again(conn):
            pass
        return kept

    def _asks_again(self, conn: TConn) -> bool:
        if not self.alive or conn.is_http2 or conn.parser.unreader.buf.getvalue():
            return False
        poller = select.poll()
        poller.register(conn.sock, select.POLLIN)
        # Not while others wait for a thread.
        return bool(self.tpool._work_queue.empty() and poller.poll(LINGER_MS))


bind = os.environ.get("API_BIND") or "127.0.0.1:8000"
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = Worker
threads = 8
keepalive = 15
timeout = 30
graceful_timeout = 20
logger_class = PlainLogger
loglevel = settings.log_level.lower()
control_socket_disable = True


def on_starting(_: Any) -> None:
    """Numbers that a former run left would be counted again."""
    directory = Path(os.environ[METRICS])
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink(missing_ok=True)


def child_exit(_: Any, worker: Any) -> None:
    from prometheus_flask_exporter.multiprocess import (  # only now: see METRICS
        GunicornInternalPrometheusMetrics,
    )

    GunicornInternalPrometheusMetrics.mark_process_dead_on_child_exit(worker.pid)


def on_exit(_: Any) -> None:
    if own_metrics:
        shutil.rmtree(os.environ[METRICS], ignore_errors=True)
