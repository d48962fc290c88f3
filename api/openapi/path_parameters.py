"""Parameters in paths: the converters of Flask, their validation, and their description."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from werkzeug.routing import BaseConverter

from api.client_log import bind_owners
from api.cursors import MAX_ID
from api.errors import FieldError, InvalidFields, NotFound
from api.http.validation_texts import describe_error
from api.openapi.problem_examples import PATH_PARAMETERS
from api.schemas.fields import Phone
from shared.domain.error_texts import error_text

PHONE: TypeAdapter[str] = TypeAdapter(Phone)
ID_SCHEMA = {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}


class IdConverter(BaseConverter):
    """An id in a path. One that no bigint can hold is rejected later; here it would cause a 405."""

    regex = "[1-9][0-9]{0,18}"

    def to_python(self, value: str) -> int:
        return int(value)


class PhoneConverter(BaseConverter):
    """A phone in a path, or what is meant as one: `check_path_values` rejects it with a reason."""

    regex = "[^/a-z][^/]*"

    def to_python(self, value: str) -> str:  # the library reads its annotation
        return value


CONVERTERS = {"id": IdConverter, "phone": PhoneConverter}


def check_path_values(values: Mapping[str, Any]) -> None:
    """Check ids and phones in a path; bind the client of a phone to the log lines.

    Raise NotFound for an id that cannot exist, InvalidFields for a phone that no body could have.
    """
    for name, value in values.items():
        if name == "phone":
            bind_owners([int(_parse_phone(value))])
        elif value > MAX_ID:
            raise NotFound(error_text("There is nothing with this id."))


def describe_path_parameters(parameters: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Complete the library's descriptions; a parameter that is not ours is of no operation."""
    return [
        {
            **each,
            "schema": PHONE.json_schema() if each["name"] == "phone" else {**ID_SCHEMA},
            "description": PATH_PARAMETERS[each["name"]].description,
            "example": PATH_PARAMETERS[each["name"]].example,
        }
        for each in parameters
        if each["name"] in PATH_PARAMETERS
    ]


def _parse_phone(text: str) -> str:
    try:
        return PHONE.validate_python(text)
    except ValidationError as error:
        (found,) = error.errors(include_url=False, include_input=False)
        raise InvalidFields(
            FieldError(describe_error(found), found["type"], parameter="phone")
        ) from None
