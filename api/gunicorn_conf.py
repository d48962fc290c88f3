"""Configuration of gunicorn: gunicorn -c api/gunicorn_conf.py 'api:create_app()'.

API_BIND and WEB_CONCURRENCY (processes) come from the environment; command-line options override
this file.
"""

import contextlib
import gc
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from traceback import extract_tb
from typing import Any

import orjson
import structlog
from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.http import HTTP_STATUS_CODES

from shared.config.production import find_demo_settings
from shared.config.settings import ApiSettings, load_settings
from shared.db.connections import exit_if_transactions_are_pooled
from shared.file_limit import raise_file_limit
from shared.logging import log_config
from shared.startup import log_start, wait_for_database, wait_for_redis

# An invalid setting, or an unsuitable pooler, stops the server with one line.
settings = load_settings(ApiSettings)
log_config.configure_logging("api", settings.log_level, settings.log_format)
exit_if_transactions_are_pooled(settings.database_url)
raise_file_limit()

log = structlog.get_logger()

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
owns_metrics_directory = METRICS_VARIABLE not in os.environ
# Set it before prometheus_client is imported, which then chooses its storage.
if owns_metrics_directory:
    os.environ[METRICS_VARIABLE] = tempfile.mkdtemp(prefix="api-metrics-")


class RootLogger(Logger):
    """Send gunicorn's messages to the root logger. The application logs requests itself."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


# By the parser's errors; every other one means that the request is malformed.
REFUSALS: dict[type[Exception], int] = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.ExpectationFailed: 417,
    errors.UnsupportedTransferCoding: 501,
    errors.ForbiddenProxyRequest: 403,
    errors.ConfigurationProblem: 500,
    errors.InvalidResponseHeader: 500,
    errors.InvalidResponseHeaderName: 500,
}
DETAILS = {
    400: "The request is malformed.",
    414: "The address is too long.",
    417: "This expectation is not supported.",
    431: "The headers are too large.",
    500: "The service failed; the log has the details under this request_id.",
    501: "This transfer coding is not supported.",
}


# How long a process leaves a new connection to the others, for each connection that it has, and at
# most. An idle process takes it within microseconds.
YIELD_SECONDS = 0.0002
MAX_YIELD_SECONDS = 0.002


class ApiWorker(ThreadWorker):
    """Shares connections with the other processes; answers failures with problems.

    The base class accepts whatever it sees first. The kernel wakes the process that was awake last,
    so that one process had 15 or all of 16 connections, and the others' cores were idle.

    For what cannot be parsed, or fails outside of the application, the base class answers with
    pages, and logs the bytes that it cannot parse: those of a body, and so texts and phones, if a
    client miscounts them.
    """

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, unless a process that has fewer of them does so meanwhile."""
        if self.cfg.workers > 1:
            time.sleep(min(self.nr_conns * YIELD_SECONDS, MAX_YIELD_SECONDS))
        super().accept(listener)

    def handle_error(self, _: Any, client: socket.socket, __: Any, error: Exception) -> None:
        status = 400 if isinstance(error, errors.ParseException) else 500
        status = next((REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS), status)
        request_id = uuid.uuid4().hex
        kind = type(error).__name__
        structlog.contextvars.clear_contextvars()
        if status == 500:
            stack = [f"{x.filename}:{x.lineno} {x.name}" for x in extract_tb(error.__traceback__)]
            log.error("api.defect", error_class=kind, stack=stack, request_id=request_id)
        else:
            log.info("api.unparsable", status=status, error_class=kind, request_id=request_id)
        title = HTTP_STATUS_CODES[status]
        detail = DETAILS.get(status, f"{title}.")
        body = orjson.dumps(
            {
                "type": "about:blank",
                "title": title,
                "status": status,
                "code": "internal_error" if status == 500 else "request_malformed",
                "detail": detail,
                "request_id": request_id,
            }
        )
        head = (
            f"HTTP/1.1 {status} {title}\r\nConnection: close\r\n"
            "Content-Type: application/problem+json\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\nX-Request-ID: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


bind = settings.api_bind
workers = settings.web_concurrency
worker_class = ApiWorker
# Per process. A slow client occupies one of them, so put a buffering proxy in front.
threads = 8
keepalive = 15
timeout = 30
limit_request_line = 8190  # filters in an address may be long
forwarder_headers = ""  # no request sets SCRIPT_NAME or PATH_INFO, that of a proxy neither
graceful_timeout = 20
logger_class = RootLogger
loglevel = settings.log_level.lower()
control_socket_disable = True


def on_starting(_: Any) -> None:
    """Delete the numbers of a previous run, which would be counted again."""
    directory = Path(os.environ[METRICS_VARIABLE])
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink(missing_ok=True)


def when_ready(_: Any) -> None:
    demo = find_demo_settings(settings)
    log_start(settings.database_url, settings.redis_url, demo, address=bind)


def post_fork(_: Any, __: Any) -> None:
    """Collect no garbage while the application is imported, a fifth of the time of the start."""
    gc.disable()


def post_worker_init(worker: Any) -> None:
    """Let the first process log what cannot be reached, without a request that would show it.

    What was imported lives as long as the process, so no collection looks at it again.
    """
    gc.freeze()
    gc.enable()
    if worker.age == 1:
        never = threading.Event()
        for wait, url in (
            (wait_for_database, settings.database_url),
            (wait_for_redis, settings.redis_url),
        ):
            threading.Thread(target=wait, args=(url, never), daemon=True).start()


def pre_request(_: Any, req: Any) -> None:
    """Let the application end the connection of a request whose body it does not read."""
    req.body.force_close = req.force_close


def on_exit(_: Any) -> None:
    if owns_metrics_directory:
        shutil.rmtree(os.environ[METRICS_VARIABLE], ignore_errors=True)
