"""HTTP metrics for Prometheus at /metrics, summed over the processes of a gunicorn."""

import os

from flask import Flask, request
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def init_metrics(app: Flask) -> None:
    app.before_request(_bound_methods)
    kind = PrometheusMetrics
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set by gunicorn_conf.py
        kind = GunicornInternalPrometheusMetrics
    # By rule, not by path: ids in labels would make a series for every client.
    kind(app, group_by="url_rule", registry=CollectorRegistry())


def _bound_methods() -> None:
    """A method that somebody invents must not make a series of its own. (It is refused anyway.)"""
    if request.method not in METHODS:
        request.method = "OTHER"
