"""The Flask application: its classes, and the factories for the web server and for commands."""

import os
import sys
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Request
from flask.json.provider import JSONProvider
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from api.admin import init_admin
from api.audit_log import audit_log
from api.cli.clients import client_commands
from api.cli.logs import log_commands
from api.cli.reports import report_commands
from api.cli.tokens import token_commands
from api.clients.imports import imports
from api.clients.routes import clients
from api.db import init_database
from api.enqueue import init_wake
from api.exports import exports
from api.http.bearer_auth import init_auth
from api.http.problems import init_problems
from api.http.request_id import init_tracing
from api.http.security_headers import init_headers
from api.mailings.actions import lifecycle
from api.mailings.messages import messages
from api.mailings.preview import preview
from api.mailings.routes import mailings
from api.mailings.statistics import statistics
from api.mailings.test_sends import test_sends
from api.monitoring.health import health
from api.monitoring.metrics import init_metrics
from api.openapi.operation import init_openapi
from api.openapi.swagger_ui import init_docs
from api.opt_outs.routes import opt_outs
from api.tokens.routes import tokens
from shared.config.settings import ApiSettings, CommandSettings, load_settings
from shared.logging import log_config

PEOPLE = "/admin"


MAX_BODY = 1024 * 1024
RESOURCES = (
    clients,
    imports,
    exports,
    mailings,
    preview,
    lifecycle,
    messages,
    statistics,
    tokens,
    opt_outs,
    test_sends,
    audit_log,
)


class OrjsonProvider(JSONProvider):
    """JSON by orjson. Instants are strings already: see answers.py."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)


class PeoplesSessions(SecureCookieSessionInterface):
    """Sessions where people sign in. Programs send a token, and have none."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if not request.path.startswith(PEOPLE):
            return None
        return super().open_session(app, request)


class Application(Flask):
    """The web process's application."""

    json_provider_class = OrjsonProvider
    session_interface = PeoplesSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: no view here is a coroutine, so none is asked whether it is."""
        return func


def create_app() -> Flask:
    """The application: the whole of it for a web server, the database alone for a command."""
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
        return _command_app()
    settings = load_settings(ApiSettings)
    log_config.configure_logging("api", settings.log_level, settings.log_format)
    app = Application("api", static_folder=None)
    app.secret_key = settings.secret_key.get_secret_value()
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["PROVIDER_RATE"] = settings.provider_rate
    app.config["TEST_SENDS_PER_MINUTE"] = settings.test_sends_per_minute
    app.config["SEGMENT_PRICE"] = settings.segment_price
    _configure(app, settings)
    # An address is right or wrong; nothing is redirected to what it may have meant.
    app.url_map.merge_slashes = False
    init_headers(app, settings.public_url)
    init_problems(app)
    init_tracing(app)
    init_metrics(app, settings.redis_url, settings.metrics_token)
    init_auth(app, settings.api_bootstrap_token.get_secret_value())
    init_database(app, settings.database_url)
    init_wake(app, settings.redis_url)
    init_openapi(app)
    app.register_blueprint(health)
    for resource in RESOURCES:
        app.register_blueprint(resource, url_prefix="/api/v1")
    init_docs(app)
    init_admin(app, settings)
    return app


def _command_app() -> Flask:
    app = Flask("api", static_folder=None)
    app.cli.add_command(log_commands)
    if "logs" in sys.argv[1:4]:
        return app  # whoever reads logs need not have the service's settings
    settings = load_settings(CommandSettings)
    log_config.configure_logging("api.command", settings.log_level, settings.log_format)
    _configure(app, settings)
    init_database(app, settings.database_url, limited=False)
    app.cli.add_command(client_commands)
    app.cli.add_command(report_commands)
    app.cli.add_command(token_commands)
    return app


def _configure(app: Flask, settings: CommandSettings) -> None:
    app.config["DEFAULT_TIMEZONE"] = settings.default_timezone
    app.config["IMPORT_MAX_BYTES"] = settings.import_max_bytes
