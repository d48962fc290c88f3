"""HTTP metrics for Prometheus at /metrics, summed over the processes of a gunicorn."""

import os

from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics


def init_metrics(app: Flask) -> None:
    kind = PrometheusMetrics
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set by gunicorn_conf.py
        kind = GunicornInternalPrometheusMetrics
    # By rule, not by path: ids in labels would make a series for every client.
    kind(app, group_by="url_rule", registry=CollectorRegistry())
