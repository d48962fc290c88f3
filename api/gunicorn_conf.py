"""gunicorn's configuration: gunicorn -c api/gunicorn_conf.py 'api:create_app()'.

API_BIND and WEB_CONCURRENCY (processes) come from the environment; options on the command line
override what is said here.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger

from shared.config.settings import ApiSettings, load_settings
from shared.logging import log_config

settings = load_settings(ApiSettings)  # here too, so that a bad one stops everything in one line
log_config.configure_logging("api", settings.log_level, settings.log_format)

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


bind = os.environ.get("API_BIND") or "127.0.0.1:8000"
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "gthread"
# Per process. A slow client occupies one of them, so put a buffering proxy in front.
threads = 8
keepalive = 15
timeout = 30
limit_request_line = 8190  # filters in an address may be long
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


def on_exit(_: Any) -> None:
    if own_metrics:
        shutil.rmtree(os.environ[METRICS], ignore_errors=True)
