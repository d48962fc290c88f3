"""Phone numbers: 11 digits that start with 7, and the ways in which people write them.

A caller of the API sends exactly the 11 digits (PHONE_PATTERN). A person or a spreadsheet may write
+7 (916) 123-45-67 or 8 916 123 45 67, which `parse_phone` reads.
"""

import re

from shared.domain.error_texts import error_text

PHONE_PATTERN = "7[0-9]{10}"
PHONE = re.compile(PHONE_PATTERN)
PHONE_EXAMPLE = "79161234567"
PHONE_DETAIL = error_text(
    "must be 11 digits and start with 7, for example %(example)s", example=PHONE_EXAMPLE
)
# Stands in a mailing's list of phones for one whose client was deleted.
ERASED_PHONE = 0
SHORTENED_DETAIL = (
    "was shortened by a spreadsheet (as in 7,9E+10): format the column as text, "
    "enter the phones again and export"
)

MOBILE_WITHOUT_PREFIX = re.compile("9[0-9]{9}")
# What a spreadsheet makes of a number that is too long for its column.
SCIENTIFIC = re.compile(r"\+?[0-9]+([.,][0-9]*)?[eеEЕ][+]?[0-9]+")
# Characters written between the digits: spaces, brackets, dots, dashes, and an apostrophe in front.
SEPARATOR_CHARACTERS = " \t\u00a0\u2007\u2009\u202f().-\u2010\u2011\u2012\u2013\u2014'"
SEPARATORS = str.maketrans("", "", SEPARATOR_CHARACTERS)


class InvalidPhone(ValueError):
    """A text that is not a phone number; `code` names the reason for translations."""

    def __init__(self, code: str, detail: str):
        super().__init__(f"phone {detail}")
        self.code = code


def is_phone(text: str) -> bool:
    """Return whether `text` is exactly the 11 digits that the API requires."""
    return PHONE.fullmatch(text) is not None


def format_listed_phone(phone: int) -> str:
    """Return a phone of a mailing's list as text."""
    return "erased" if phone == ERASED_PHONE else str(phone)


def derive_operator_code(phone: str | int | None) -> str:
    """Return the three digits after the 7, which name the operator.

    An import derives it in SQL (shared/client_import/merge.py).
    """
    return str(phone)[1:4]


def parse_phone(text: str, *, prefix_optional: bool = False) -> str:
    """Return the 11 digits of a phone number as people and spreadsheets write it.

    The number may start with +7, 7 or 8; with `prefix_optional`, a mobile number (9…) may lack the
    prefix. Raise InvalidPhone, whose text says what is expected.
    """
    if PHONE.fullmatch(text):
        return text
    written = text.translate(SEPARATORS)
    digits = written.removeprefix("+")
    if PHONE.fullmatch(digits):
        return digits
    if written[:1] == "8" and PHONE.fullmatch("7" + written[1:]):
        return "7" + written[1:]
    if prefix_optional and MOBILE_WITHOUT_PREFIX.fullmatch(written):
        return "7" + written
    if SCIENTIFIC.fullmatch(text.strip().lstrip("'")):
        raise InvalidPhone("phone_shortened", SHORTENED_DETAIL)
    raise InvalidPhone("phone_format", PHONE_DETAIL)
