"""English texts of errors that keep their template, so that the API can translate them."""

from collections.abc import Mapping
from typing import Self


class ErrorText(str):
    """A text made from a template and values; wherever it is not translated, a plain string."""

    template: str
    values: Mapping[str, object]

    def __new__(cls, text: str, template: str, values: Mapping[str, object]) -> Self:
        made = super().__new__(cls, text)
        made.template, made.values = template, values
        return made


def error_text(template: str, /, **values: object) -> ErrorText:
    """Return the text of a template with the fields `%(name)s`; values may be such texts too."""
    return ErrorText(template % values if values else template, template, values)
