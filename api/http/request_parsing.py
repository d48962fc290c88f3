"""Reads a request's query string and JSON body into the schemas, or says what is wrong."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from api.errors import FieldError, InvalidFields
from api.http.problems import BadRequest, UnsupportedMediaType

Schema = TypeVar("Schema", bound=BaseModel)

# Of a caller's own field name, at most this much is repeated in an error.
SHOWN_NAME = 64
# Of a body that is refused, at most this much is awaited.
DISCARDED = 8 * 1024 * 1024
UNSTORABLE = "contains NUL or half of a surrogate pair, which is no text"
# What pydantic calls these would only confuse somebody who sees JSON.
DETAILS = {
    "missing": "is required",
    "extra_forbidden": "is not known here",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
}


def parse_query(request: Request, schema: type[Schema]) -> Schema:
    """The query string; every value is the string it was sent as."""
    values: dict[str, Any] = {}
    faults = []
    for name, given in request.args.lists():
        values[name] = given[0]
        if len(given) > 1:
            faults.append(FieldError("is given more than once", "repeated", parameter=_name(name)))
    faults += [
        FieldError(UNSTORABLE, "unstorable", parameter=_name(str(path[0])))
        for path in _unstorable(values)
    ]
    if faults:
        raise InvalidFields(*faults)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise InvalidFields(
            *(
                FieldError(_detail(each), each["type"], parameter=_name(str(each["loc"][0])))
                for each in _errors(error)
            )
        ) from None


def parse_body(request: Request, schema: type[Schema], context: Mapping[str, Any]) -> Schema:
    """The JSON body."""
    document = _read_json(request)
    faults = [
        FieldError(UNSTORABLE, "unstorable", pointer=_pointer(path))
        for path in _unstorable(document)
    ]
    if faults:
        raise InvalidFields(*faults)
    try:
        return schema.model_validate(document, context=dict(context))
    except ValidationError as error:
        raise InvalidFields(
            *(
                FieldError(_detail(each), each["type"], pointer=_pointer(each["loc"]))
                for each in _errors(error)
            )
        ) from None


def discard_body(request: Request, limit: int = DISCARDED) -> None:
    """Read away what the caller still sends, or it may meet a reset instead of our answer."""
    stream, left = request.environ["wsgi.input"], limit
    with suppress(OSError):
        while left > 0 and (chunk := stream.read(min(left, 65536))):
            left -= len(chunk)


def _read_json(request: Request) -> Any:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(
            "Send the body as JSON with the header Content-Type: application/json."
        )
    if request.content_encoding not in (None, "", "identity"):
        raise UnsupportedMediaType("Send the body without a content encoding.")
    try:
        body = request.get_data(cache=False)
        # Of a body without a declared length, werkzeug reads up to the limit and says nothing.
        if request.content_length is None and len(body) == request.max_content_length:
            raise RequestEntityTooLarge
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: see byte {error.start}.") from None
    except OSError:
        raise BadRequest("The body is cut short, or its chunks are malformed.") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {error.msg}, line {error.lineno} column {error.colno}."
        ) from None
    except RecursionError:
        raise BadRequest("The body is not acceptable JSON: it is nested too deeply.") from None
    except ValueError:
        raise BadRequest("The body is not acceptable JSON: a number is out of bounds.") from None


def _refuse_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _unstorable(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where a document holds NUL or half of a surrogate pair, which no database text can."""
    if isinstance(value, str):
        if _is_unstorable(value):
            yield path
    elif isinstance(value, dict):
        for name, each in value.items():
            if _is_unstorable(name):
                yield (*path, name)
            else:
                yield from _unstorable(each, (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unstorable(each, (*path, index))


def _is_unstorable(text: str) -> bool:
    if "\x00" in text:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _errors(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_input=False, include_context=False)


def _detail(error: Mapping[str, Any]) -> str:
    if error["type"] in DETAILS:
        return DETAILS[error["type"]]
    message = str(error["msg"])
    return (
        message.replace("String should", "must")
        .replace("Input should", "must")
        .replace("List should", "must")
    )


def _pointer(path: tuple[str | int, ...]) -> str:
    """A JSON pointer (RFC 6901). What is wrong with an object's key is shown at its value."""
    if len(path) > 1 and path[-1] == "[key]":
        path = path[:-1]
    return "".join("/" + _name(str(step)).replace("~", "~0").replace("/", "~1") for step in path)


def _name(name: str) -> str:
    return name[:SHOWN_NAME].encode("utf-8", "replace").decode().replace("\x00", "?")
