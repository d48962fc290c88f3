"""Field types of personalised messages: clients' attributes, and texts with placeholders."""

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from api.errors import FieldError, InvalidFields
from api.schemas.invalid_value import invalid_value
from shared.domain.attributes import (
    CLIENT_FIELDS,
    MAX_ATTRIBUTES,
    MAX_VALUE_LENGTH,
    NAME_DETAIL,
    NAME_LETTERS,
    RESERVED_DETAIL,
    is_attribute_name,
)
from shared.domain.error_texts import error_text
from shared.domain.templates import MalformedTemplate, compile_template

MAX_TEXT_LENGTH = 2000
# The syntax of a text, as a JSON schema pattern.
TEXT_PATTERN = (
    rf"^([^{{}}]|\{{\{{|\}}\}}|\{{[{NAME_LETTERS}][{NAME_LETTERS}0-9]{{0,31}}(\|[^{{}}]*)?\}})*$"
)


def _check_name(name: str) -> str:
    if not is_attribute_name(name):
        detail = RESERVED_DETAIL if name in CLIENT_FIELDS else NAME_DETAIL
        raise invalid_value("attribute_name", detail)
    return name


def _check_text(text: str) -> str:
    try:
        compile_template(text)
    except MalformedTemplate as error:
        raise invalid_value("placeholder", error.text) from None
    return text


def _attributes_schema(value_type: str | list[str]) -> WithJsonSchema:
    value = {"type": value_type, "minLength": 1, "maxLength": MAX_VALUE_LENGTH}
    return WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": value,
            "maxProperties": MAX_ATTRIBUTES,
            "propertyNames": {
                "pattern": f"^[{NAME_LETTERS}][{NAME_LETTERS}0-9]{{0,31}}$",
                "not": {"enum": sorted(CLIENT_FIELDS)},
            },
            "examples": [{"name": "Anna"}],
        }
    )


_Name = Annotated[str, AfterValidator(_check_name)]
_Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_LENGTH)]
Attributes = Annotated[
    dict[_Name, _Value], Field(max_length=MAX_ATTRIBUTES), _attributes_schema("string")
]
AttributeChanges = Annotated[
    dict[_Name, _Value | None],
    Field(max_length=MAX_ATTRIBUTES),
    _attributes_schema(["string", "null"]),
]

TEXT_DESCRIPTION = (
    "May hold placeholders: {phone}, {tag}, {operator_code}, {timezone} and any attribute of the "
    "client, with a default where some lack it: {name|dear client}. A brace is written twice: {{."
)
MailingText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_TEXT_LENGTH,
        description=TEXT_DESCRIPTION,
        examples=["Hello, {name|dear client}!"],
        json_schema_extra={"pattern": TEXT_PATTERN},
    ),
    AfterValidator(_check_text),
]


def merge_attributes(attributes: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    """Apply changes to attributes; null removes one. Raise InvalidFields if there are too many."""
    changed = {**attributes, **changes}
    merged = {name: value for name, value in changed.items() if value is not None}
    if len(merged) > MAX_ATTRIBUTES:
        detail = error_text(
            "would be %(count)s in all; a client has at most %(most)s",
            count=len(merged),
            most=MAX_ATTRIBUTES,
        )
        raise InvalidFields(FieldError(detail, "too_many_attributes", "/attributes"))
    return merged
