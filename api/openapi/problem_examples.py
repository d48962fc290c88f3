"""The problems that OpenAPI shows: for each operation an example that it can really answer."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from werkzeug.http import HTTP_STATUS_CODES

from api.http.pagination import MAX_LIMIT

SCHEMA = {"$ref": "#/components/schemas/ProblemAnswer"}
MEANINGS = {
    400: "The request cannot be read.",
    401: "The token is missing or not valid.",
    403: "The token's scope does not reach this far.",
    404: "There is no such thing.",
    409: "Not in the present state; the detail says why.",
    413: "The body is too large.",
    415: "The body is not declared as what it must be.",
    422: "The request breaks rules; `errors` says which and where.",
    429: "Too much in this minute; try again after `Retry-After` seconds.",
    503: "Not available; try again after `Retry-After` seconds.",
}
AN_ID = "6b1f0c7c4f5a4c57a0b9d5a1f0c8f7e2"
REQUEST_ID = {
    "X-Request-ID": {
        "description": "The request's id in the logs: the caller's own, if it sent one.",
        "schema": {"type": "string", "examples": [AN_ID]},
    }
}
LOCATION = {
    "Location": {
        "description": "Where what was made can be asked for.",
        "schema": {"type": "string"},
    }
}
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "What is wrong with the token (RFC 6750).",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_HEADERS = {401: _CHALLENGE, 403: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}

DETAILS = {
    400: "The body is not JSON: Expecting value, line 1 column 1.",
    401: "Send an API token in the header: Authorization: Bearer TOKEN.",
    413: "The body is too large; the limit is 1 MiB.",
    415: "Send the body as JSON with the header Content-Type: application/json.",
    429: "At most 10 test messages may be sent per minute; 2 are left now.",
    503: "The database is not available. Try again in a moment.",
}
OF_FILES = {
    400: "The body is cut short.",
    413: "The file is larger than 268435456 bytes: split it and send the parts.",
    415: "Send the file itself as the body, with the header Content-Type: text/csv.",
}
CONFLICTS = {
    "clients": "phone already belongs to client 12",
    "mailings": "The mailing is finished and cannot change any more.",
    "tokens": "A token of this name exists; revoke it or choose another name.",
}
CONFLICTS_OF = {
    "start": "The mailing is running: only a scheduled one can start.",
    "pause": "The mailing is finished: it cannot be paused.",
    "resume": "The mailing is running: it cannot be resumed.",
    "cancel": "The mailing is finished: it cannot be cancelled.",
    "retry-failed": "No message of the mailing has failed.",
}


class Named(NamedTuple):
    """What an address names, and what is said where it is not there."""

    description: str
    example: int
    missing: str


NAMED = {
    "client_id": Named("The client's id.", 1, "There is no such client."),
    "mailing_id": Named("The mailing's id.", 17, "There is no such mailing."),
    "message_id": Named(
        "The message's id, by which the provider knows it too.", 4711, "There is no such message."
    ),
    "import_id": Named("The import's id.", 5, "There is no such import."),
    "token_id": Named("The token's id.", 3, "There is no such token, or it is revoked already."),
    "phone": Named("The phone: 11 digits.", 79161234567, "This phone is not opted out."),
}
FILE_FAULT = {
    "detail": "The first line must name the columns, and phone must be among them, for example: "
    "phone,operator_code,tag,timezone",
    "code": "file_header",
}


def problem(status: int) -> dict[str, Any]:
    """An answer that is a problem. Its example is made when the operation is known."""
    return {
        "description": MEANINGS[status],
        "headers": {**REQUEST_ID, **_HEADERS.get(status, {})},
        "content": {"application/problem+json": {"schema": SCHEMA}},
    }


def add_examples(path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Give each problem of an operation an example."""
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/problem+json")
        if content is not None:
            content["example"] = _example(int(status), path, operation, schemas)


def _example(
    status: int, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": _detail(status, path, operation),
        "instance": re.sub(r"{([a-z_]+)}", lambda name: str(NAMED[name[1]].example), path),
        "request_id": AN_ID,
    }
    if status == 422:
        fault = _fault(operation, schemas)
        place = fault.get("pointer") or fault.get("parameter")
        example["detail"] = f"{place}: {fault['detail']}" if place else fault["detail"]
        example["errors"] = [fault]
    return example


def _detail(status: int, path: str, operation: Mapping[str, Any]) -> str:
    parameters = re.findall(r"{([a-z_]+)}", path)
    if status == 404:
        return NAMED[parameters[-1]].missing
    if status == 409:
        return CONFLICTS_OF.get(path.rpartition("/")[2], CONFLICTS[operation["tags"][0]])
    if status == 403:
        return f"The API token's scope is read; this takes the scope {operation['x-scope']}."
    if "text/csv" in _body(operation):
        return OF_FILES.get(status, DETAILS.get(status, ""))
    return DETAILS.get(status, "")


def _fault(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, str]:
    """What may be wrong: with the body, or with the query string, which every operation has."""
    body = _body(operation)
    if "text/csv" in body:
        return FILE_FAULT
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
