"""What is wrong with a rejected row, with a template to translate.

A row is stored with its errors in English. Their translations are found by the codes when they are
read, so that each reader gets them in a language of their own.
"""

from api.clients.import_service import RejectedCell
from shared.domain.error_texts import ErrorText, error_text

NUMBERED = error_text("row %(line)s: %(error)s")
# By code. A field of a template that is not stored with an error leaves it in English.
TEMPLATES = {
    "phone_format": error_text(
        "%(column)s must be 11 digits and start with 7, for example 79161234567"
    ),
    "phone_shortened": error_text(
        "%(column)s was shortened by a spreadsheet (as in 7,9E+10): format the column as text, "
        "enter the phones again and export"
    ),
    "phone_decimal": error_text(
        "%(column)s is a decimal number whose digits are not those of a phone: write all 11 "
        "digits, for example 79161234567"
    ),
    "phone_extension": error_text(
        "%(column)s has the extension %(found)s: messages reach no extension, so leave the phone "
        "alone"
    ),
    "phone_several": error_text(
        "%(column)s cell holds several phones, %(found)s: give each a row of its own"
    ),
    "phone_foreign": error_text(
        "%(column)s is of another country: only phones that start with +7 can be written to"
    ),
    "operator_code_format": error_text(
        "%(column)s must be exactly 3 digits, for example 916, or empty"
    ),
    "tag_length": error_text("%(column)s must be at most 64 characters"),
    "timezone_unknown": error_text(
        "%(column)s must be an IANA time zone, for example Europe/Moscow"
    ),
    "timezone_offset": error_text(
        "%(column)s is an offset, which several zones have: confirm with the mapping that it means "
        "%(found)s, or write the zone"
    ),
    "timezone_missing": error_text(
        "%(column)s is missing: fill it in, or send the file with ?timezone=Europe/Moscow"
    ),
    "value_length": error_text("%(column)s must be at most 200 characters"),
    "line_break": error_text(
        "%(column)s must not hold a line break; look for a quote that is not closed"
    ),
    "repeated": error_text(
        "%(column)s is given again in row %(found)s with other values, and the last one wins"
    ),
    "client_deleted": error_text("the client was deleted after this file was sent"),
    "quotes": error_text('quotes must enclose a whole cell; write a quote inside of one as ""'),
    "too_many_cells": error_text(
        "the row has more cells than the header; put a cell that holds the delimiter in quotes: "
        '"a,b"'
    ),
    "not_an_object": error_text("the line must be one JSON object in UTF-8"),
    "not_a_string": error_text("%(column)s must be a string"),
    "nul": error_text("%(column)s must not hold NUL"),
    "unknown_field": error_text(
        "%(column)s is none of the fields phone, operator_code, tag, timezone and attributes"
    ),
    "attribute_name": error_text("%(found)s cannot be the name of an attribute"),
    "too_many_attributes": error_text("the row has %(found)s attributes; a client has at most 20"),
}
# Of the same codes, by whether an error has a column or names something.
ZONE_LIKE = error_text("%(column)s is unknown: write a time zone such as %(found)s")
NO_OBJECT = error_text("%(column)s must be an object")
MANY_ATTRIBUTES = error_text("%(column)s may be at most 20")


def find_row_error_text(error: RejectedCell) -> ErrorText:
    """Return the text of an error without the value of its cell, for a translation."""
    template: str = TEMPLATES.get(error.code, error.detail)
    if error.code == "timezone_unknown" and error.found:
        template = ZONE_LIKE
    elif error.code == "not_an_object" and error.column:
        template = NO_OBJECT
    elif error.code == "too_many_attributes" and error.column:
        template = MANY_ATTRIBUTES
    if "%(found)s" in template and not error.found:  # of an older version
        template = error.detail
    return ErrorText(error.detail, template, {"column": error.column, "found": error.found})
