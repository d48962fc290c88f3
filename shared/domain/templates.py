"""Texts with placeholders: `{phone}`, `{name|dear client}`, and `{{` and `}}` for braces.

A text is compiled once and rendered for each client. One without placeholders is plain: it is the
same for all clients, and sending it needs nothing of a client but the phone.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from shared.domain.attributes import ATTRIBUTE_NAME, CLIENT_FIELDS
from shared.domain.error_texts import ErrorText, error_text

# In characters. Values may lengthen a text; a longer one is not sent.
MAX_RENDERED_LENGTH = 4000


class MalformedTemplate(Exception):
    """A text with a misplaced brace at `position` (the first character is 1)."""

    def __init__(self, position: int, detail: ErrorText):
        self.text = error_text(
            "character %(position)s: %(detail)s", position=position, detail=detail
        )
        super().__init__(self.text)
        self.position = position


class RenderingError(Exception):
    """The text cannot be rendered for this client; the error's text is the message's reason."""


class MissingAttribute(RenderingError):
    """The client lacks an attribute that the text requires."""

    def __init__(self, name: str):
        super().__init__(f"missing attribute: {name}")
        self.name = name


class RenderedTextTooLong(RenderingError):
    """The client's values make the text too long."""

    def __init__(self, length: int):
        super().__init__(f"text too long: {length} characters, at most {MAX_RENDERED_LENGTH}")


class Placeholder(NamedTuple):
    """A reference to a client's value, and the default if there is none."""

    name: str
    default: str | None


class Template(NamedTuple):
    """A compiled text: literal parts and placeholders in order."""

    parts: tuple[str | Placeholder, ...]

    @property
    def plain(self) -> str | None:
        """The text, if it is the same for all clients; None if it has placeholders."""
        if all(isinstance(part, str) for part in self.parts):
            return "".join(part for part in self.parts if isinstance(part, str))
        return None

    @property
    def required(self) -> list[str]:
        """The attributes that a client must have, in order of appearance."""
        placeholders = (part for part in self.parts if isinstance(part, Placeholder))
        names = (p.name for p in placeholders if p.default is None and p.name not in CLIENT_FIELDS)
        return list(dict.fromkeys(names))

    def render(self, values: Mapping[str, str]) -> str:
        """Return the text for a client with these values of fields and attributes.

        A default replaces an empty value as well. Raise RenderingError.
        """
        pieces = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = values.get(part.name)
            if part.default is not None:
                pieces.append(value or part.default)
            elif value is None:
                raise MissingAttribute(part.name)
            else:
                pieces.append(value)
        text = "".join(pieces)
        if not text:
            raise RenderingError("the text is empty for this client")
        if len(text) > MAX_RENDERED_LENGTH:
            raise RenderedTextTooLong(len(text))
        return text


@lru_cache(maxsize=256)
def compile_template(text: str) -> Template:
    """Compile a mailing's text. Raise MalformedTemplate."""
    parts: list[str | Placeholder] = []
    literal: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if character not in "{}":
            literal.append(character)
            at += 1
        elif text[at : at + 2] == character * 2:
            literal.append(character)
            at += 2
        elif character == "}":
            raise MalformedTemplate(
                at + 1, error_text("a } that closes nothing; write }} for a brace")
            )
        else:
            placeholder, after = _parse_placeholder(text, at)
            parts += ["".join(literal), placeholder] if literal else [placeholder]
            literal.clear()
            at = after
    if literal:
        parts.append("".join(literal))
    return Template(tuple(parts))


def compile_stored_template(text: str) -> Template:
    """Compile a stored text; one with a misplaced brace (of an older release) is literal."""
    try:
        return compile_template(text)
    except MalformedTemplate:
        return Template((text,))


def _parse_placeholder(text: str, at: int) -> tuple[Placeholder, int]:
    """Return the placeholder that begins at `at`, and the position after it."""
    end = text.find("}", at)
    again = text.find("{", at + 1)
    if end < 0 or 0 <= again < end:
        raise MalformedTemplate(at + 1, error_text("a { that is not closed; write {{ for a brace"))
    name, bar, default = text[at + 1 : end].partition("|")
    if ATTRIBUTE_NAME.fullmatch(name) is None:
        raise MalformedTemplate(
            at + 1,
            error_text(
                "a placeholder must be an attribute's name, as in {name} or {name|dear client}; "
                "write {{ for a brace"
            ),
        )
    return Placeholder(name, default if bar else None), end + 1
