"""Attributes of clients: rules for their names and values.

A mailing's text refers to an attribute as {name}. So a name is a word of Latin or Cyrillic letters,
digits and underscores, and differs from the client's own fields.
"""

import re

from shared.domain.error_texts import error_text

MAX_ATTRIBUTES = 20
MAX_VALUE_LENGTH = 200

NAME_LETTERS = "A-Za-zА-Яа-яЁё_"
ATTRIBUTE_NAME = re.compile(f"[{NAME_LETTERS}][{NAME_LETTERS}0-9]{{0,31}}")
# Fields of a client that a text may use like attributes.
CLIENT_FIELDS = frozenset({"phone", "tag", "operator_code", "timezone"})

NAME_DETAIL = error_text(
    "must be 1 to 32 letters (Latin or Cyrillic), digits or underscores, and not begin with a digit"
)
RESERVED_DETAIL = error_text("is the name of a field of every client and cannot be an attribute")


def is_attribute_name(name: str) -> bool:
    """Return whether `name` is a valid name of an attribute."""
    return ATTRIBUTE_NAME.fullmatch(name) is not None and name not in CLIENT_FIELDS


def parse_attribute_name(text: str) -> str | None:
    """Return the attribute that a person or a column header names; None if it names none.

    Spaces and hyphens become underscores.
    """
    name = "_".join(text.replace("-", " ").split())
    return name if is_attribute_name(name) else None


def placeholder_values(table: str) -> str:
    """Return SQL for the values of a text's placeholders, as a JSON object; `table` is clients."""
    return (
        f"{table}.attributes || jsonb_build_object('phone', {table}.phone::text,"
        f" 'tag', {table}.tag, 'operator_code', {table}.operator_code,"
        f" 'timezone', {table}.timezone)"
    )
