"""Problems in the OpenAPI document: each operation has examples that it can really return."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from werkzeug.http import HTTP_STATUS_CODES

from api.cursors import MAX_LIMIT
from api.http.localisation import LANGUAGES

SCHEMA = {"$ref": "#/components/schemas/ProblemAnswer"}
MEANINGS = {
    400: "The request cannot be read.",
    401: "The token is missing or not valid.",
    403: "The token's scope is not sufficient.",
    404: "There is no such object.",
    409: "Not possible in the present state; `detail` gives the reason.",
    412: "The object was edited since the version in `If-Match`.",
    413: "The body is too large.",
    415: "The content type is not supported.",
    422: "Values break rules; `errors` lists the rules and locations.",
    428: "The change needs `If-Match`.",
    429: "Too many requests, or too much under way; try again after `Retry-After` seconds.",
    503: "Not available; try again after `Retry-After` seconds.",
}
EXAMPLE_ID = "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2"
REQUEST_ID = {
    "X-Request-ID": {
        "description": "The request's id in the logs: the caller's own, if it sent one.",
        "schema": {"type": "string", "examples": [EXAMPLE_ID]},
    }
}
LANGUAGE = {
    "Content-Language": {
        "description": "The language of `title`, `detail` and `errors`: by `Accept-Language`.",
        "schema": {"type": "string", "examples": [*LANGUAGES]},
    }
}
LOCATION = {
    "Location": {"description": "The URL of the created object.", "schema": {"type": "string"}}
}
ETAG = {
    "ETag": {"description": "The present version.", "schema": {"type": "string"}},
}
CHALLENGE = {
    "WWW-Authenticate": {
        "description": "The error of the token (RFC 6750).",
        "schema": {"type": "string"},
    }
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
RATE_LIMIT = {
    "RateLimit": {
        "description": "What is left of the quota, and the seconds until there is more.",
        "schema": {"type": "string", "examples": ['"token";r=0;t=1']},
    },
    "RateLimit-Policy": {
        "description": "The quota, and the seconds in which it is restored.",
        "schema": {"type": "string", "examples": ['"token";q=1000;w=5']},
    },
}
PROBLEM_HEADERS = {
    401: CHALLENGE,
    403: CHALLENGE,
    412: ETAG,
    429: {**RETRY_AFTER, **RATE_LIMIT},
    503: RETRY_AFTER,
}

DETAILS = {
    400: "The body is not JSON: Expecting value, line 1 column 1.",
    401: "Send an API token in the header: Authorization: Bearer TOKEN.",
    412: "Its version is 4 now; it was last changed by Ann at 2030-12-01T08:00:00Z: read it again.",
    413: "The body is too large; the limit is 1 MiB.",
    415: "Send the body as JSON with the header Content-Type: application/json.",
    428: 'Send the ETag that was read as If-Match, for example "3".',
    429: "This API token sends too many requests. Try again in 1 s.",
    503: "The database is not available. Try again in a moment.",
}
FILE_DETAILS = {
    400: "The body is cut short.",
    413: "The file is larger than 268435456 bytes: split it and send the parts.",
    415: "Send the file itself as the body, with the header Content-Type: text/csv.",
}
WORKERS_OUTDATED = (
    "2 of the running workers are of an older version that would not follow this rule: update them"
    " first."
)
CONFLICTS = {
    "clients": "phone already belongs to client 12",
    "imports": "Import 6 came later: only the last one can be undone.",
    "mailings": "The mailing is finished and cannot change any more.",
    "policy": WORKERS_OUTDATED,
    "tokens": "A token of this name exists; revoke it or choose another name.",
}
CODES = {
    400: "body_malformed",
    401: "token_missing",
    403: "scope_insufficient",
    404: "not_found",
    409: "action_impossible",
    412: "version_mismatch",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_values",
    428: "if_match_missing",
    429: "rate_exceeded",
    503: "database_unavailable",
}
CONFLICT_CODES = {
    "clients": "phone_taken",
    "imports": "import_not_last",
    "tokens": "token_name_taken",
    "policy": "workers_outdated",
}
ACTION_CONFLICTS = {
    "mailings": WORKERS_OUTDATED,
    "start": "The mailing is running: only a scheduled one can start.",
    "pause": "The mailing is finished: it cannot be paused.",
    "resume": "The mailing is running: it cannot be resumed.",
    "cancel": "The mailing is finished: it cannot be cancelled.",
    "retry-failed": "No message of the mailing has failed.",
    "test-send": "It was sent before; its results are not stored any more.",
}


class PathParameter(NamedTuple):
    """A parameter in a path, and the error text if its object does not exist."""

    description: str
    example: int | str
    missing: str


PATH_PARAMETERS = {
    "client_id": PathParameter("The client's id.", 1, "There is no such client."),
    "mailing_id": PathParameter("The mailing's id.", 17, "There is no such mailing."),
    "message_id": PathParameter(
        "The message's id, which the provider receives as well.", 4711, "There is no such message."
    ),
    "import_id": PathParameter("The import's id.", 5, "There is no such import."),
    "token_id": PathParameter(
        "The token's id.", 3, "There is no such token, or it is revoked already."
    ),
    "session_id": PathParameter("The session's id.", 8, "There is no such session."),
    "phone": PathParameter("The phone: 11 digits.", "79161234567", "This phone is not opted out."),
}
FILE_ERROR = {
    "detail": "The first line must name the columns, and phone must be among them, for example: "
    "phone,operator_code,tag,timezone",
    "code": "file_header",
}


def describe_problem(status: int) -> dict[str, Any]:
    """Describe a problem response; `add_examples` adds its example later."""
    return {
        "description": MEANINGS[status],
        "headers": {**REQUEST_ID, **LANGUAGE, **PROBLEM_HEADERS.get(status, {})},
        "content": {"application/problem+json": {"schema": SCHEMA}},
    }


def add_examples(path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Give each problem of an operation an example."""
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/problem+json")
        if content is not None:
            content["example"] = _example(int(status), path, operation, schemas)


def _example(
    status: int, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "code": CODES[status],
        "detail": _detail(status, path, operation),
        "instance": re.sub(
            r"{([a-z_]+)}", lambda name: str(PATH_PARAMETERS[name[1]].example), path
        ),
        "request_id": EXAMPLE_ID,
    }
    if status == 409:
        example["code"] = CONFLICT_CODES.get(operation["tags"][0], "action_impossible")
        if path.endswith("/mailings"):
            example["code"] = "workers_outdated"
        if path.endswith("/test-send"):
            example["code"] = "answer_not_stored"
        if example["code"] == "phone_taken":
            example["client_id"] = 12
        if example["code"] == "import_not_last":
            example["import_id"] = 6
    if status == 412:
        changed = {"changed_by": "Ann", "changed_at": "2030-12-01T08:00:00Z"}
        example |= {"current_version": 4, **changed}
    if status == 422:
        error = _field_error(operation, schemas)
        location = error.get("pointer") or error.get("parameter")
        example["detail"] = f"{location}: {error['detail']}" if location else error["detail"]
        example["errors"] = [error]
    return example


def _detail(status: int, path: str, operation: Mapping[str, Any]) -> str:
    parameters = re.findall(r"{([a-z_]+)}", path)
    if status == 404:
        return PATH_PARAMETERS[parameters[-1]].missing
    if status == 409:
        return ACTION_CONFLICTS.get(path.rpartition("/")[2], CONFLICTS[operation["tags"][0]])
    if status == 403:
        return f"The API token's scope is read; this takes the scope {operation['x-scope']}."
    if "text/csv" in _body(operation):
        return FILE_DETAILS.get(status, DETAILS.get(status, ""))
    return DETAILS.get(status, "")


def _field_error(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, str]:
    """Return an error of the body, or of the query string, which every operation has."""
    body = _body(operation)
    if "text/csv" in body:
        return FILE_ERROR
    if "application/json" in body:
        name = body["application/json"]["schema"]["$ref"].rpartition("/")[2]
        required = schemas[name].get("required")
        if required:
            return {"pointer": f"/{required[0]}", "detail": "is required", "code": "missing"}
        first = next(iter(schemas[name]["properties"]))
        return {"pointer": f"/{first}", "detail": "must be a string", "code": "string_type"}
    if any(parameter["name"] == "limit" for parameter in operation["parameters"]):
        detail = f"must be a whole number from 1 to {MAX_LIMIT}"
        return {"parameter": "limit", "detail": detail, "code": "limit"}
    return {"parameter": "colour", "detail": "is not known here", "code": "extra_forbidden"}


def _body(operation: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
    return content
