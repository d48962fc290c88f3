"""Parse what people write into text fields: lists, phones and attributes, one to a line."""

import re
from collections.abc import Iterable

from flask_babel import gettext as _

from shared.domain.attributes import parse_attribute_name
from shared.domain.phones import InvalidPhone, parse_phone


def split_list(text: str) -> list[str]:
    """Split a text at commas, semicolons and line ends; leave out blank items."""
    return [item.strip() for item in re.split(r"[,;\n]", text) if item.strip()]


def read_id(text: str) -> int | None:
    """Return the id in a parameter or a field; None if the text cannot be an id."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def read_phone(text: str) -> str | None:
    """Return the 11 digits of a phone; None if the text is not a phone."""
    try:
        return parse_phone(text)
    except InvalidPhone:
        return None


def read_phones(text: str) -> tuple[list[str], str | None]:
    """Return the different phones in a list, and a message if one of them is not a phone."""
    phones = {item: read_phone(item) for item in split_list(text)}
    invalid = next((item for item, phone in phones.items() if phone is None), None)
    message = None if invalid is None else f"{invalid[:30]}: {phone_expected()}"
    return list(dict.fromkeys(phone for phone in phones.values() if phone)), message


def phone_expected() -> str:
    """Return the message for a text that is not a phone."""
    return str(_("A phone has 11 digits, for example +7 916 123-45-67."))


def read_attribute_lines(text: str) -> tuple[dict[str, str], str | None]:
    """Return the attributes in lines of `name = value`, and a message if a line is not one."""
    attributes: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, sign, value = line.partition("=")
        known = parse_attribute_name(name)
        if not sign or known is None or not value.strip():
            message = _(
                "“%(line)s” is not understood: write name = value, one to a line.", line=line[:60]
            )
            return attributes, str(message)
        attributes[known] = value.strip()
    return attributes, None


def attribute_lines(attributes: Iterable[tuple[str, str]]) -> str:
    """Return attributes as the lines that `read_attribute_lines` parses."""
    return "\n".join(f"{name} = {value}" for name, value in attributes)
