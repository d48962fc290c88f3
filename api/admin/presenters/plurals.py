"""Texts that depend on a number, which is formatted in the reader's language."""

from collections.abc import Callable
from typing import Any, cast

from flask import Flask
from flask_babel import format_decimal, get_domain
from jinja2 import pass_context
from jinja2.runtime import Context


def ngettext(singular: str, plural: str, n: int, **variables: object) -> str:
    """Return the form of a text for `n`, with `%(num)s` as the reader's language writes it."""
    text: str = get_domain().get_translations().ungettext(singular, plural, n)
    return text % {"num": format_decimal(n), **variables}


def init_plurals(app: Flask) -> None:
    """Let `ngettext` in templates format its number as well."""
    plain = cast(Callable[..., Any], app.jinja_env.globals["ngettext"])

    @pass_context
    def formatted(context: Context, singular: str, plural: str, n: int, **variables: object) -> Any:
        return plain(context, singular, plural, n, **{"num": format_decimal(n), **variables})

    app.jinja_env.globals["ngettext"] = formatted
