"""Attributes of clients: what they may be called, and how long they may be.

A name can stand between braces in a mailing's text, so it is a word of Latin or Cyrillic letters,
and none of those that mean the client's own fields there.
"""

import re

MAX_ATTRIBUTES = 20
MAX_VALUE_LENGTH = 200

NAME_LETTERS = "A-Za-zА-Яа-яЁё_"
ATTRIBUTE_NAME = re.compile(f"[{NAME_LETTERS}][{NAME_LETTERS}0-9]{{0,31}}")
# The fields of a client that a text may use besides the attributes.
CLIENT_FIELDS = frozenset({"phone", "tag", "operator_code", "timezone"})

NAME_DETAIL = (
    "must be 1 to 32 letters (Latin or Cyrillic), digits or underscores, and not begin with a digit"
)
RESERVED_DETAIL = "is the name of a field of every client and cannot be an attribute"


def is_attribute_name(name: str) -> bool:
    """Whether an attribute may be called so."""
    return ATTRIBUTE_NAME.fullmatch(name) is not None and name not in CLIENT_FIELDS


def placeholder_values(table: str) -> str:
    """SQL: what a text's placeholders stand for, as a JSON object, by a row of clients."""
    return (
        f"{table}.attributes || jsonb_build_object('phone', {table}.phone::text,"
        f" 'tag', {table}.tag, 'operator_code', {table}.operator_code,"
        f" 'timezone', {table}.timezone)"
    )
