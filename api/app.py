"""The Flask application: its classes, and its factory for the web server and for commands."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
from flask import Flask, Request
from flask.json.provider import JSONProvider
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from api.admin import init_admin
from api.audit_log import routes as audit_log
from api.cli.clients import client_commands
from api.cli.logs import log_commands
from api.cli.reports import report_commands
from api.cli.tokens import token_commands
from api.clients import import_routes as client_imports
from api.clients import routes as clients
from api.db import init_database
from api.enqueue import init_queues
from api.http.bearer_auth import init_bearer_auth
from api.http.problems import init_problems
from api.http.request_id import init_request_ids
from api.http.security_headers import init_security_headers
from api.limits.request_rates import init_request_rates
from api.mailings import message_routes as messages
from api.mailings import routes as mailings
from api.monitoring import health
from api.monitoring.metrics import init_metrics
from api.openapi.operation import init_openapi
from api.openapi.swagger_ui import init_swagger_ui
from api.opt_outs import routes as opt_outs
from api.people import routes as people
from api.policy import routes as policy
from api.tokens import routes as tokens
from api.tokens.authenticator import init_tokens
from shared.config.settings import ApiSettings, CommandSettings, load_settings
from shared.db.connections import exit_if_transactions_are_pooled
from shared.logging import log_config
from shared.tracing import start_tracing

MAX_BODY_BYTES = 1024 * 1024
RESOURCES = (
    clients,
    client_imports,
    mailings,
    messages,
    tokens,
    people,
    opt_outs,
    policy,
    audit_log,
)


class OrjsonProvider(JSONProvider):
    """Serialise JSON with orjson. Instants are strings already (see `format_instant`)."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)


class AdminSessions(SecureCookieSessionInterface):
    """Open a session for requests of the admin UI only; the REST API authenticates by token."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if not request.path.startswith("/admin"):
            return None
        return super().open_session(app, request)


class Application(Flask):
    """The Flask application of a web process."""

    json_provider_class = OrjsonProvider
    session_interface = AdminSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the view unchanged: none is a coroutine, so the check per request is skipped."""
        return func


def create_app() -> Flask:
    """Create the application: complete for a web server, with the database alone for commands."""
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
        return _create_command_app()
    settings = load_settings(ApiSettings)
    log_config.configure_logging("api", settings.log_level, settings.log_format)
    start_tracing("api", settings.otel_exporter_otlp_endpoint, settings.otel_traces_sampler_arg)
    app = Application("api", static_folder=None)
    app.secret_key = settings.secret_key.get_secret_value()
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["PROVIDER_RATE"] = settings.provider_rate
    app.config["TEST_SENDS_PER_MINUTE"] = settings.test_sends_per_minute
    app.config["SEGMENT_PRICE"] = settings.segment_price
    app.config["CURRENCY"] = settings.currency
    app.config["REPORT_TIMEZONE"] = settings.report_timezone
    app.config["END_MARGIN"] = timedelta(seconds=settings.end_margin)
    _configure(app, settings)
    # Do not redirect an address with doubled slashes to the merged one.
    app.url_map.merge_slashes = False
    init_security_headers(app, settings.public_url)
    init_problems(app)
    init_request_ids(app)
    init_metrics(app, settings.redis_url, settings.metrics_token)
    rates = init_request_rates(app, settings)
    authenticate = init_tokens(app, settings.api_bootstrap_token.get_secret_value())
    init_bearer_auth(app, authenticate, rates)
    init_database(app, settings.database_url)
    init_queues(app, settings.redis_url)
    init_openapi(app)
    app.register_blueprint(health.blueprint)
    for resource in RESOURCES:
        app.register_blueprint(resource.blueprint, url_prefix="/api/v1")
    init_swagger_ui(app)
    init_admin(app, settings)
    return app


def _create_command_app() -> Flask:
    app = Flask("api", static_folder=None)
    app.cli.add_command(log_commands)
    if "logs" in sys.argv[1:4]:
        return app  # reading logs requires none of the service's settings
    settings = load_settings(CommandSettings)
    log_config.configure_logging("api.command", settings.log_level, settings.log_format)
    _configure(app, settings)
    exit_if_transactions_are_pooled(settings.database_url)
    init_database(app, settings.database_url, timeouts=False)
    app.cli.add_command(client_commands)
    app.cli.add_command(report_commands)
    app.cli.add_command(token_commands)
    return app


def _configure(app: Flask, settings: CommandSettings) -> None:
    app.config["DEFAULT_TIMEZONE"] = settings.default_timezone
    app.config["IMPORT_MAX_BYTES"] = settings.import_max_bytes
