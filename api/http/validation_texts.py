"""Texts of invalid values: those of pydantic, in words of JSON and with a template to translate."""

import re
from collections.abc import Mapping
from typing import Any

from api.schemas.invalid_value import find_detail
from shared.domain.error_texts import ErrorText, error_text

# Replace texts of pydantic that name types of Python instead of JSON.
DETAILS = {
    "missing": error_text("is required"),
    "extra_forbidden": error_text("is not known here"),
    "model_type": error_text("must be a JSON object"),
    "dict_type": error_text("must be a JSON object"),
    "list_type": error_text("must be a list"),
    "string_type": error_text("must be a string"),
    "int_type": error_text("must be a whole number"),
}
# The English texts are pydantic's own; their translations are found by these.
TEMPLATES = {
    "string_too_short": error_text("must have at least %(min_length)s characters"),
    "string_too_long": error_text("must have at most %(max_length)s characters"),
    "string_pattern_mismatch": error_text("must match pattern '%(pattern)s'"),
    "int_from_float": error_text("must have no fraction"),
    "int_parsing": error_text("must be a whole number"),
    "float_type": error_text("must be a number"),
    "bool_type": error_text("must be true or false"),
    "greater_than_equal": error_text("must be greater than or equal to %(ge)s"),
    "less_than_equal": error_text("must be less than or equal to %(le)s"),
    "model_attributes_type": error_text("must be a JSON object"),
    "too_short": error_text("must have at least %(min_length)s entries"),
    "too_long": error_text("must have at most %(max_length)s entries"),
    "enum": error_text("must be one of: %(expected)s"),
    "literal_error": error_text("must be one of: %(expected)s"),
}
PYDANTIC_SUBJECT = re.compile("(String|Input|List) should")


def describe_error(error: Mapping[str, Any]) -> ErrorText:
    """Return the text of an error of pydantic, which has its context."""
    kind = error["type"]
    own = find_detail(error) or DETAILS.get(kind)
    if own is not None:
        return own
    text = PYDANTIC_SUBJECT.sub("must", str(error["msg"]))
    values = dict(error.get("ctx", {}))
    if "expected" in values:
        values["expected"] = values["expected"].replace(" or ", ", ")
    return ErrorText(text, TEMPLATES.get(kind, text), values)
