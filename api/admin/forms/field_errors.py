"""Errors of a submitted form, by field and in the reader's language."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask_babel import LazyString, format_decimal, lazy_gettext
from flask_babel import gettext as _
from pydantic import ValidationError

from api.admin.forms.budget_fields import field_of_budget_error
from api.errors import InvalidFields
from api.schemas.personalisation import MAX_TEXT_LENGTH
from shared.domain.templates import MalformedTemplate, compile_template

# By the error codes of the API.
MESSAGES: dict[str, LazyString] = {
    "missing": lazy_gettext("Please fill this in."),
    "string_too_short": lazy_gettext("Please fill this in."),
    "string_too_long": lazy_gettext("This is too long."),
    "phone_format": lazy_gettext(
        "A phone has 11 digits and starts with 7, for example 79161234567."
    ),
    "operator_code_format": lazy_gettext("An operator code has exactly 3 digits, for example 916."),
    "timezone_unknown": lazy_gettext(
        "Choose a time zone from the list, for example Europe/Moscow."
    ),
    "instant_format": lazy_gettext("Choose a date and a time."),
    "instant_range": lazy_gettext("This date is too far away."),
    "end_before_start": lazy_gettext("The end must be later than the start."),
    "past": lazy_gettext("This is in the past: nothing would be sent."),
    "within_end_margin": lazy_gettext(
        "The mailing is too short: nothing is sent in its last seconds (END_MARGIN)."
    ),
    "too_soon": lazy_gettext(
        "The end must be at least 3 seconds ahead. To stop now, cancel the mailing."
    ),
    "window_empty": lazy_gettext("The beginning and the end of the permitted hours must differ."),
    "clock_time_format": lazy_gettext("Enter a time between 00:00 and 23:59, for example 09:00."),
    "greater_than_equal": lazy_gettext("This number is too small."),
    "less_than_equal": lazy_gettext("This number is too large."),
    "int_type": lazy_gettext("Enter a whole number."),
    "attribute_name": lazy_gettext(
        "An attribute's name has up to 32 letters, digits and _, and is none of phone, tag, "
        "operator_code, timezone."
    ),
    "too_many_attributes": lazy_gettext("A client has at most 20 attributes."),
    "too_long": lazy_gettext("These are too many."),
    "unknown": lazy_gettext("There is no mailing of this number."),
    "search_too_slow": lazy_gettext(
        "The search takes too long. Search for more letters or digits, or fill in another field."
    ),
    "int_parsing": lazy_gettext("Enter a whole number."),
    "amount_format": lazy_gettext("Enter an amount, for example 2500.00."),
    "segment_price_missing": lazy_gettext(
        "An amount needs the price of a segment (SEGMENT_PRICE), which is not set. Give a number "
        "of segments instead."
    ),
    "amount_too_small": lazy_gettext("This amount pays for no SMS segment."),
    "mail_address_format": lazy_gettext("Enter mail addresses, for example anna@example.com."),
    "float_type": lazy_gettext("Enter a number."),
    "end_before_launch": lazy_gettext(
        "With the launch delay of the policy the mailing would start after this end."
    ),
    "token_name_format": lazy_gettext("Enter a name of 1 to 100 characters."),
}


def errors_from_schema(error: ValidationError) -> dict[str, str]:
    """Return pydantic's errors as messages by field, the first of each."""
    messages: dict[str, str] = {}
    for each in error.errors(include_url=False, include_context=False):
        name = _field_at(each["loc"])
        if each["type"] == "placeholder":
            messages.setdefault(name, _describe_placeholder(str(each["input"])))
        if name == "text" and each["type"] == "string_too_long":
            messages.setdefault(name, describe_excess(len(str(each["input"]))))
        messages.setdefault(name, translate_error(each["type"], str(each["msg"])))
    return messages


def describe_excess(length: int) -> str:
    """Return by how many characters a mailing's text is too long."""
    message: str = _(
        "At most %(most)s characters: shorten the text by %(count)s.",
        most=format_decimal(MAX_TEXT_LENGTH),
        count=format_decimal(length - MAX_TEXT_LENGTH),
    )
    return message


def _describe_placeholder(text: str) -> str:
    """Return what is wrong with a text's braces, and where."""
    try:
        compile_template(text)
    except MalformedTemplate as error:
        message: str = _(
            "The brace at character %(n)s is not part of a placeholder: write %(one)s or "
            "%(other)s, and a literal brace twice: %(brace)s.",
            n=error.position,
            one="{name}",
            other="{name|dear client}",
            brace="{{",
        )
        return message
    return ""


def errors_from_service(error: InvalidFields) -> dict[str, str]:
    """Return a service's field errors as messages by field, the first of each."""
    messages: dict[str, str] = {}
    for each in error.field_errors:
        name = _field_at((each.pointer or each.parameter or "").strip("/").split("/"))
        messages.setdefault(name, translate_error(each.code, each.detail))
    return messages


def _field_at(location: Sequence[Any]) -> str:
    """Return the form's field for the location of an error in a mailing's document."""
    field, *nested = map(str, location or [""])
    if field == "budget":
        return field_of_budget_error(tuple(nested))
    return nested[0] if field == "filter" and nested else field


def translate_error(code: str, detail: str) -> str:
    """Return the message for an error code of the API."""
    known = MESSAGES.get(code)
    return str(known) if known is not None else _("This is not accepted: %(detail)s", detail=detail)


def field_text(form: Mapping[str, Any], name: str) -> str:
    """Return a field's text without surrounding blanks and without NUL, which is not storable."""
    return str(form.get(name) or "").replace("\x00", "").strip()
