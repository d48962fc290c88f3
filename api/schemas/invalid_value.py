"""The error that a validator raises: a code, and a text that can be translated."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from shared.domain.error_texts import ErrorText

DETAIL = "detail"


def invalid_value(code: str, detail: ErrorText) -> PydanticCustomError:
    """Return an error to raise, with this text. Its braces stay as they are."""
    return PydanticCustomError(code, "{detail}", {DETAIL: detail})


def find_detail(error: Mapping[str, Any]) -> ErrorText | None:
    """Return the text of an error of pydantic that `invalid_value` made; else None."""
    detail: ErrorText | None = error.get("ctx", {}).get(DETAIL)
    return detail
