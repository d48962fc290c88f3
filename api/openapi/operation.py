"""The OpenAPI 3.1 document and the validation of requests, with flask-pydantic-spec.

Two parts of the library are replaced: its parsing of requests, which converts types and repeats
input in errors; and its document, which lacks security and problems.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeVar, cast

from flask import Flask, current_app, make_response, request
from flask_pydantic_spec import FlaskPydanticSpec
from flask_pydantic_spec.flask_backend import FlaskBackend
from flask_pydantic_spec.utils import get_model_name
from pydantic import BaseModel
from werkzeug.routing import Rule

from api.http.bearer_auth import PROTECTED_PATH, required_scope
from api.http.etags import ETAG_HEADER_DESCRIPTION, IF_MATCH_PARAMETER
from api.http.idempotency import HEADER_PARAMETER, REPLAYED_HEADER_DESCRIPTION
from api.http.request_parsing import parse_body, parse_query
from api.openapi.bodies import FILE_FORM, CsvUpload, OperationResponses
from api.openapi.deprecation import Deprecation, announce
from api.openapi.generator_rules import apply_generator_rules
from api.openapi.links import add_links
from api.openapi.path_parameters import CONVERTERS, check_path_values, describe_path_parameters
from api.openapi.problem_examples import (
    add_examples,
    describe_problem,
)
from api.schemas.base import Query
from shared import __version__
from shared.domain.scopes import Scope

DESCRIPTION = """\
Add clients, create mailings, and read the outcome of every message.

Every call under `/api/v1` needs `Authorization: Bearer TOKEN`; the token's scope (`read`, `write`,
`admin`) defines what it may do. Instants are RFC 3339 with an offset; responses give them in UTC.
Lists are paged: pass `next_cursor` back as `cursor` until it is null. Errors are
`application/problem+json` (RFC 9457) and carry a `request_id`, by which the logs can be searched;
their texts are in English or, with `Accept-Language: ru`, in Russian.
"""
TAGS = [
    {"name": "clients", "description": "The recipients of mailings."},
    {"name": "imports", "description": "Imported files of clients, and their rejected rows."},
    {"name": "mailings", "description": "A text, a time, an audience."},
    {"name": "messages", "description": "The outcome of each message."},
    {"name": "statistics", "description": "Consistent totals."},
    {"name": "opt-outs", "description": "Phones that no mailing sends to."},
    {"name": "policy", "description": "Limits of all mailings, and the emergency stop."},
    {"name": "audit", "description": "Who changed what, and when."},
    {"name": "tokens", "description": "Tokens for calling this API."},
    {"name": "sessions", "description": "Who is signed in to the admin UI."},
    {"name": "service", "description": "Probes for monitoring."},
]
INFO = {
    "description": DESCRIPTION,
    "contact": {"name": "The operators of this installation"},
    "license": {"name": "MIT", "identifier": "MIT"},
}
BODY_PROBLEMS = (400, 413, 415)
# Examples of bodies and responses, by the names of their schemas.
EXAMPLES: dict[str, list[Any]] = {}

View = TypeVar("View", bound=Callable[..., Any])


class Backend(FlaskBackend):
    """Passes the validated query and body to a view as arguments."""

    def validate(self, func: Any, query: Any, body: Any, *_: Any, **kwargs: Any) -> Any:
        check_path_values(kwargs)
        if query is not None:
            kwargs["query"] = parse_query(request, query)
        elif request.args:
            parse_query(request, Query)  # which has no fields
        if body.model is not None:
            context = {"default_timezone": current_app.config["DEFAULT_TIMEZONE"]}
            kwargs["body"] = parse_body(request, body.model, context)
        return make_response(func(**kwargs))

    def parse_path(self, route: Rule) -> tuple[str, list[Mapping[str, Any]]]:
        path, parameters = super().parse_path(route)
        return path, [*describe_path_parameters(parameters)]


class Spec(FlaskPydanticSpec):
    """The library's document with security, and with unchanged schemas of pydantic."""

    def _parse_request_body(self, request_body: Mapping[str, Any]) -> Mapping[str, Any]:
        return request_body

    def _get_open_api_schema(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(schema)

    models: dict[str, Any]

    def _get_model_definitions(self) -> dict[str, Any]:
        models = deepcopy(self.models)  # the library removes nested definitions from its own
        try:
            return cast(dict[str, Any], super()._get_model_definitions())
        finally:
            self.models = models

    def _generate_spec(self) -> Mapping[str, Any]:
        document: dict[str, Any] = dict(super()._generate_spec())
        document["info"] |= INFO
        document["servers"] = [{"url": "/", "description": "The server of this document."}]
        document["tags"] = TAGS  # which the library has sorted
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        schemas = document["components"]["schemas"]
        for name in [name for name in schemas if name.endswith("Query")]:
            del schemas[name]  # its fields are parameters of operations
        schemas["FileForm"] = deepcopy(FILE_FORM)
        for name, examples in EXAMPLES.items():
            schemas[name]["examples"] = examples  # whose fields pydantic has sorted by name
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["tags"] = list(operation["tags"])
                operation["parameters"] = [
                    _clean_parameter(each) for each in operation["parameters"]
                ]
                if "requestBody" in operation:
                    operation["requestBody"] = {**operation["requestBody"], "required": True}
        for path, method, view in self._views():
            operation = document["paths"][path][method.lower()]
            if path.startswith(PROTECTED_PATH):
                _add_security(operation, required_scope(view, method))
            else:
                operation["security"] = []
            if view.idempotent:
                operation["parameters"].append(HEADER_PARAMETER)
                for status, response in operation["responses"].items():
                    if status.startswith("2"):
                        response["headers"] |= REPLAYED_HEADER_DESCRIPTION
            if view.versioned:
                _add_versions(operation, method)
            if view.deprecation is not None:
                view.deprecation.describe(operation)
            add_examples(path, operation, schemas)
        add_links(document["paths"])
        apply_generator_rules(document)
        if self.app.config["DEFAULT_TIMEZONE"] is not None:
            for name in ("NewClient", "ClientOfPhone"):
                required = [each for each in schemas[name]["required"] if each != "timezone"]
                schemas[name].pop("required")
                if required:
                    schemas[name]["required"] = required
        return document

    def _views(self) -> Iterator[tuple[str, str, Any]]:
        """Yield every path and method of the document with its view."""
        for rule in self.backend.find_routes(self.app):
            path, _ = self.backend.parse_path(rule)
            for method, view in self.backend.parse_func(self.app, rule):
                if not self.backend.bypass(view, method) and not self.bypass(view):
                    yield path, method, view


def _add_security(operation: dict[str, Any], scope: Scope) -> None:
    operation["security"] = [{"bearer": []}]
    operation["x-scope"] = str(scope)
    note = f"Needs a token of the scope `{scope}`" + ("." if scope == Scope.ADMIN else " or more.")
    operation["description"] = f"{operation['description']}\n\n{note}".strip()
    if scope != Scope.READ:  # every token has it
        responses = {**operation["responses"], "403": describe_problem(403)}
        operation["responses"] = dict(sorted(responses.items()))


def _add_versions(operation: dict[str, Any], method: str) -> None:
    for status, response in operation["responses"].items():
        if status in ("200", "201"):
            response["headers"] |= ETAG_HEADER_DESCRIPTION
    if method in ("PUT", "PATCH", "DELETE"):
        required = "428" in operation["responses"]
        operation["parameters"].append({**deepcopy(IF_MATCH_PARAMETER), "required": required})
        for status in (400, 412):
            operation["responses"][str(status)] = describe_problem(status)
        operation["responses"] = dict(sorted(operation["responses"].items()))


def _clean_parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """Remove null from a query parameter, and move the description from schema to parameter."""
    schema = dict(parameter["schema"])
    if "anyOf" in schema:
        schema |= next(each for each in schema.pop("anyOf") if each != {"type": "null"})
    if parameter["in"] == "query" and (
        schema.get("default") is None or "cursor" in parameter["name"]
    ):
        schema.pop("default", None)
    separated = {}
    if schema.get("type") == "array":  # separated by commas, since no parameter may be repeated
        separated = {"style": "form", "explode": False}
    described = {"description": schema.pop("description")} if "description" in schema else {}
    return {**parameter, **described, **separated, "schema": schema}


spec = Spec("flask", backend=Backend, title="Notification service", version=__version__, tags=TAGS)


def operation(
    tag: str,
    *,
    response: type[BaseModel] | None,
    description: str,
    status: int = 200,
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | CsvUpload | None = None,
    csv: str | None = None,
    problems: tuple[int, ...] = (),
    public: bool = False,
    scope: Scope | None = None,
    idempotent: bool = False,
    versioned: bool = False,
    created: str | None = None,
    deprecation: Deprecation | None = None,
) -> Callable[[View], View]:
    """Describe a view to OpenAPI; validate `query` and `body` and pass them to it by these names.

    `description` and `response` are those of the success. `scope` is required of the caller's
    token; None means `read` for GET and `write` otherwise. An `idempotent` view reads the header
    Idempotency-Key. A `versioned` one returns an object with its ETag, and reads If-Match if it
    changes the object. One that may also create the object answers 201 then, described by
    `created`. `csv` is an example of a CSV file that is returned instead of JSON.
    A `deprecation` is announced in all answers.
    """
    common_problems = (422,) if public else (401, 422, 429, 503)
    body_problems = BODY_PROBLEMS if body is not None else ()
    for model in (body, response):
        if isinstance(model, type):
            extra = cast(dict[str, Any], model.model_config["json_schema_extra"])
            EXAMPLES[get_model_name(model)] = extra["examples"]
    statuses = {*common_problems, *body_problems, *problems}
    responses = OperationResponses(status, response, description, statuses, csv, created)
    validated = spec.validate(query=query, body=body, resp=responses, tags=(tag,))

    def decorate(view: View) -> View:
        validating_view = validated(view)
        if deprecation is not None:
            validating_view = announce(validating_view, deprecation)
        validating_view.deprecation = deprecation
        validating_view.scope = scope
        validating_view.idempotent = idempotent
        validating_view.versioned = versioned
        return cast(View, validating_view)

    return decorate


def init_openapi(app: Flask) -> None:
    """Register the converters of paths. The document is generated at the first request for it."""
    app.url_map.converters |= CONVERTERS
    spec.register(app, register_route=False)


def openapi_document(app: Flask) -> Mapping[str, Any]:
    """Return the application's OpenAPI document; generate it at the first call."""
    if "openapi" not in app.extensions:
        spec.register(app, register_route=False)  # the library uses the application registered last
        app.extensions["openapi"] = spec._generate_spec()
    return cast(Mapping[str, Any], app.extensions["openapi"])
