"""Parse and validate query strings and JSON bodies. Errors raise InvalidFields or a Problem."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from api.errors import MAX_REPORTED_ERRORS, FieldError, InvalidFields
from api.http.excess_members import drop_excess_members
from api.http.problems import BODY_ERRORS, BROKEN_BODY, BadRequest, UnsupportedMediaType
from api.http.validation_texts import describe_error
from shared.domain.error_texts import error_text

Schema = TypeVar("Schema", bound=BaseModel)
Path = tuple[str | int, ...]

# Of lists and objects in a body, counted before it is parsed: 150,000 empty ones, in 600 kB, occupy
# a processor for a quarter of a second. Those in texts count as well; no request needs so many.
MAX_BRACKETS = 20_000
# An error repeats at most this many characters of a field name that the caller has sent.
MAX_NAME_LENGTH = 64
# What the parser finds wrong, for their translations.
JSON_ERRORS = (
    error_text("Expecting value"),
    error_text("Expecting ',' delimiter"),
    error_text("Expecting ':' delimiter"),
    error_text("Expecting property name enclosed in double quotes"),
    error_text("Illegal trailing comma before end of array"),
    error_text("Illegal trailing comma before end of object"),
    error_text("Unterminated string starting at"),
    error_text("Invalid control character at"),
    error_text("Invalid \\escape"),
    error_text("Invalid \\uXXXX escape"),
    error_text("Extra data"),
    error_text("Unexpected UTF-8 BOM (decode using utf-8-sig)"),
)
UNSTORABLE = error_text("contains NUL or half of a surrogate pair, which is no text")


def parse_query(request: Request, schema: type[Schema]) -> Schema:
    """Validate the query string; the schema gets each value as a string."""
    values = {name: texts[0] for name, texts in request.args.lists()}
    repeated = [
        FieldError(error_text("is given more than once"), "repeated", **_parameter((name,)))
        for name, texts in request.args.lists()
        if len(texts) > 1
    ]
    return _validate(values, schema, _parameter, errors=repeated)


def parse_body(request: Request, schema: type[Schema], context: dict[str, Any]) -> Schema:
    """Validate the JSON body; validators of the schema get `context`."""
    document = _read_json(request)
    dropped = drop_excess_members(document, _field_names(schema))
    return _validate(document, schema, _pointer, context=context, dropped=dropped)


def _validate(
    document: Any,
    schema: type[Schema],
    locate: Callable[[Path], dict[str, str]],
    *,
    context: dict[str, Any] | None = None,
    errors: Iterable[FieldError] = (),
    dropped: int = 0,
) -> Schema:
    unstorable = list(_find_unstorable(document))
    reported = unstorable[:MAX_REPORTED_ERRORS]
    errors = [*errors, *(FieldError(UNSTORABLE, "unstorable", **locate(p)) for p in reported)]
    if errors:
        raise InvalidFields(*errors, total=len(errors) + len(unstorable) - len(reported))
    try:
        validated = schema.model_validate(document, context=context)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        reported_errors = (
            FieldError(describe_error(each), each["type"], **locate(each["loc"]))
            for each in found[:MAX_REPORTED_ERRORS]
        )
        raise InvalidFields(*reported_errors, total=len(found) + dropped) from None
    if dropped:
        raise InvalidFields(
            FieldError(error_text("has too many members"), "too_many_members", pointer="")
        )
    return validated


@cache
def _field_names(schema: type[BaseModel]) -> frozenset[str]:
    """Return the names of all fields in the schema, those of nested objects too."""
    document = schema.model_json_schema()
    parts = [document, *document.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", {}))


def _read_json(request: Request) -> Any:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(
            error_text("Send the body as JSON with the header Content-Type: application/json.")
        )
    if request.content_encoding not in (None, "", "identity"):
        raise UnsupportedMediaType(error_text("Send the body without a content encoding."))
    try:
        body = request.get_data(cache=False)
        # werkzeug silently truncates a body of unknown length at the limit.
        if request.content_length is None and len(body) == request.max_content_length:
            raise RequestEntityTooLarge
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(
            error_text("The body is not UTF-8: see byte %(byte)s.", byte=error.start)
        ) from None
    except BODY_ERRORS:
        raise BadRequest(BROKEN_BODY) from None
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise BadRequest(
            error_text("The body is not acceptable JSON: it has too many lists and objects.")
        )
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(
            error_text(
                "The body is not JSON: %(reason)s, line %(line)s column %(column)s.",
                reason=error_text(error.msg),
                line=error.lineno,
                column=error.colno,
            )
        ) from None
    except RecursionError:
        raise BadRequest(
            error_text("The body is not acceptable JSON: it is nested too deeply.")
        ) from None
    except ValueError:
        raise BadRequest(
            error_text("The body is not acceptable JSON: a number is out of bounds.")
        ) from None


def _reject_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _find_unstorable(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of texts with NUL or half a surrogate pair, which PostgreSQL cannot store."""
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, each in members:
        if isinstance(name, str) and _is_unstorable(name):
            yield (*path, name)
        elif isinstance(each, str):
            if _is_unstorable(each):
                yield (*path, name)
        elif isinstance(each, dict | list):
            yield from _find_unstorable(each, (*path, name))


def _is_unstorable(text: str) -> bool:
    if text.isascii():  # at once, whatever the length
        return "\x00" in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\x00" in text


def _parameter(path: Path) -> dict[str, str]:
    """Locate by the parameter's name, which is empty for an error of several together."""
    return {"parameter": _shorten_name(str(path[0])) if path else ""}


def _pointer(path: Path) -> dict[str, str]:
    """Locate by a JSON pointer (RFC 6901). An error of an object's key is reported at its value."""
    if len(path) > 1 and path[-1] == "[key]":
        path = path[:-1]
    steps = (_shorten_name(str(step)).replace("~", "~0").replace("/", "~1") for step in path)
    return {"pointer": "".join(f"/{step}" for step in steps)}


def _shorten_name(name: str) -> str:
    return name[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode().replace("\x00", "?")
