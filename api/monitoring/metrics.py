"""Metrics for Prometheus at /metrics: HTTP's, summed over the processes of a gunicorn, and ours."""

import hmac
import os

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_flask_exporter import PrometheusMetrics
from pydantic import SecretStr

from api.http.problems import Unauthorized
from api.monitoring.collector import FleetCollector

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # set by gunicorn_conf.py


def init_metrics(app: Flask, redis_url: str, token: SecretStr | None) -> None:
    """Answer /metrics; where there is a `token`, to its bearer only."""
    app.before_request(_bound_methods)
    http = CollectorRegistry()
    # By rule, not by path: ids in labels would make a series for every client.
    exporter = PrometheusMetrics(app, group_by="url_rule", registry=http, path=None)
    fleet = FleetCollector(app, redis_url)

    @app.get("/metrics")
    @exporter.do_not_track()
    def metrics() -> Response:
        if token is not None:
            _demand(token.get_secret_value())
        page = CollectorRegistry()
        page.register(fleet)
        if MULTIPROCESS in os.environ:
            MultiProcessCollector(page)  # type: ignore[no-untyped-call]
            return Response(generate_latest(page), content_type=CONTENT_TYPE_LATEST)
        body = generate_latest(http) + generate_latest(page)
        return Response(body, content_type=CONTENT_TYPE_LATEST)


def _demand(token: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        raise Unauthorized(
            "The metrics are behind a token (METRICS_TOKEN): Authorization: Bearer TOKEN.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _bound_methods() -> None:
    """A method that somebody invents must not make a series of its own. (It is refused anyway.)"""
    if request.method not in METHODS:
        request.method = "OTHER"
