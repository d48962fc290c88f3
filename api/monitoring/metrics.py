"""Metrics for Prometheus at /metrics: of HTTP requests, summed over processes, and of the fleet."""

import hmac
import os

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_flask_exporter import PrometheusMetrics
from pydantic import SecretStr

from api.http.bearer_auth import read_bearer_token
from api.http.problems import Unauthorized
from api.limits.request_rates import request_rates
from api.monitoring.collector import FleetCollector
from shared.domain.error_texts import error_text

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # set by gunicorn_conf.py


def init_metrics(app: Flask, redis_url: str, token: SecretStr | None) -> None:
    """Serve /metrics; a configured `token` is then required as a bearer token."""
    app.before_request(_limit_methods)
    http_registry = CollectorRegistry()
    # Group by rule instead of path: ids in labels would create a series for each client.
    exporter = PrometheusMetrics(app, group_by="url_rule", registry=http_registry, path=None)
    fleet_collector = FleetCollector(app, redis_url)

    @app.get("/metrics")
    @exporter.do_not_track()
    def metrics() -> Response:
        if token is not None:
            _require_token(token.get_secret_value())
        registry = CollectorRegistry()
        registry.register(fleet_collector)
        if MULTIPROCESS_VARIABLE in os.environ:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
        body = generate_latest(http_registry) + generate_latest(registry)
        return Response(body, content_type=CONTENT_TYPE_LATEST)


def _require_token(token: str) -> None:
    if not hmac.compare_digest(read_bearer_token().encode(), token.encode()):
        request_rates().count_unknown_token()
        raise Unauthorized(
            error_text(
                "The metrics are behind a token (METRICS_TOKEN): Authorization: Bearer TOKEN."
            ),
            headers={"WWW-Authenticate": "Bearer"},
        )


def _limit_methods() -> None:
    """Replace an unknown HTTP method, so that it creates no time series; it is rejected anyway."""
    if request.method not in METHODS:
        request.method = "OTHER"
