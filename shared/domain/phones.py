"""Phone numbers: 11 digits that start with 7, and the ways in which people write them.

A caller of the API sends exactly the 11 digits (PHONE_PATTERN). A person or a spreadsheet may write
+7 (916) 123-45-67, 8 916 123 45 67, 916 123 45 67 or 79161234567.0, which `parse_phone` reads. It
never guesses: a text that may mean another number than the one it seems to is an error.
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
DECIMAL_DETAIL = (
    "is a decimal number whose digits are not those of a phone: write all 11 digits, for example "
    f"{PHONE_EXAMPLE}"
)
FOREIGN_DETAIL = "is of another country: only phones that start with +7 can be written to"
EXTENSION_DETAIL = "has the extension {}: messages reach no extension, so leave the phone alone"
SEVERAL_DETAIL = "cell holds several phones, {}: give each a row of its own"

# Invisible characters that messengers and web pages put around a number.
INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
# Characters written between the digits: spaces, brackets, dots, dashes, and an apostrophe in front.
SEPARATOR_CHARACTERS = (
    " \t\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
    "().-\u2010\u2011\u2012\u2013\u2014\u2015\u2212'\u2018\u2019"
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)
SEPARATORS = str.maketrans("", "", SEPARATOR_CHARACTERS)
STRIPPED = re.compile(rf"^[\s'\u2018\u2019{INVISIBLE}]+|[\s{INVISIBLE}]+$")

# The prefixes of a number's last ten digits: +7, 8, international calls from Russia and elsewhere.
PREFIXED = re.compile(r"(?:7|8|007|8107)([0-9]{10})")
MOBILE_WITHOUT_PREFIX = re.compile(r"9[0-9]{9}")
# A formula by which a spreadsheet keeps digits as text.
TEXT_FORMULA = re.compile(r"""=\s*"([^"]*)"|=\s*([0-9+][^"]*)""")
# What a spreadsheet makes of a number: with a decimal part, or too long for its column.
DECIMAL = re.compile(r"\+?([0-9]+)[.,]([0-9]*)")
SPACED_DECIMAL = re.compile(r"\+?([0-9]+)[.,]([0-9]{1,2})")
SCIENTIFIC = re.compile(r"\+?([0-9]+)(?:[.,]([0-9]*))?[eеEЕ]\+?([0-9]{1,3})")
GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
EXTENSION = re.compile(
    r"^(?P<phone>.*?[0-9].*?)[\s,;(]*"
    r"(?:доб(?:авочный)?|вн(?:утр(?:енний)?)?|ext(?:ension)?|x|#)[.:\s]*(?P<number>[0-9]+)[)\s]*$",
    re.IGNORECASE,
)
SEVERAL = re.compile(r"[,;/|\\\n\r]|\s(?:и|или|and|or)\s", re.IGNORECASE)
ADJACENT = re.compile(r"(?:\+7|8|7)[\s(.-]*[0-9]{3}[\s).-]*[0-9]{3}[\s.-]*[0-9]{2}[\s.-]*[0-9]{2}")
MAX_WRITTEN_LENGTH = 200


class InvalidPhone(ValueError):
    """A text that is not a phone number; `code` names the reason for translations.

    `found` is what the text holds instead: an extension, or several phones.
    """

    def __init__(self, code: str, detail: str, found: str = ""):
        super().__init__(f"phone {detail}")
        self.code = code
        self.found = found


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


def parse_phone(text: str) -> str:
    """Return the 11 digits of a phone number as people and spreadsheets write it.

    The number may start with +7, 7, 8 or 007; ten digits that begin with 9 are a mobile number
    without its prefix. Raise InvalidPhone, whose text says what is expected.
    """
    if PHONE.fullmatch(text):
        return text
    written = _strip(text)
    phone = _parse_number(written)
    if phone is None:
        raise _explain(written)
    return phone


def _strip(text: str) -> str:
    """Return the text without what surrounds the number: spaces, marks, the formula of a text."""
    written = STRIPPED.sub("", text[:MAX_WRITTEN_LENGTH])
    formula = TEXT_FORMULA.fullmatch(written)
    return STRIPPED.sub("", formula[1] or formula[2] or "") if formula else written


def _parse_number(written: str) -> str | None:
    # The digits around a decimal point belong to one number: they are not joined.
    decimal = _match_decimal(written)
    if decimal is not None:
        return None if decimal[2].strip("0") else _parse_digits(decimal[1])
    scientific = SCIENTIFIC.fullmatch(written)
    if scientific is not None:
        whole, fraction, exponent = scientific[1], scientific[2] or "", int(scientific[3])
        # With fewer digits than the exponent, the last ones may have been rounded away.
        return _parse_digits(whole + fraction) if len(fraction) == exponent else None
    if GROUPED.fullmatch(written):
        return _parse_digits(written.replace(",", ""))
    joined = written.translate(SEPARATORS)
    if joined[:1] == "+":
        return joined[1:] if PHONE.fullmatch(joined[1:]) else None
    return _parse_digits(joined)


def _match_decimal(written: str) -> re.Match[str] | None:
    """Match a decimal number, also one whose thousands are set apart as in 7 916 123 456,00."""
    return DECIMAL.fullmatch(written) or SPACED_DECIMAL.fullmatch(re.sub(r"(?<=\d)\s", "", written))


def _parse_digits(digits: str) -> str | None:
    prefixed = PREFIXED.fullmatch(digits)
    if prefixed is not None:
        return "7" + prefixed[1]
    return "7" + digits if MOBILE_WITHOUT_PREFIX.fullmatch(digits) else None


def _explain(written: str) -> InvalidPhone:
    """Return the error of a text that is not a phone."""
    if SCIENTIFIC.fullmatch(written):
        return InvalidPhone("phone_shortened", SHORTENED_DETAIL)
    decimal = _match_decimal(written)
    if decimal is not None and len(decimal[1]) + len(decimal[2]) > 6:
        return InvalidPhone("phone_decimal", DECIMAL_DETAIL)
    extension = EXTENSION.match(written)
    if extension is not None and _parse_number(extension["phone"].rstrip(" ,;(")) is not None:
        number = extension["number"]
        return InvalidPhone("phone_extension", EXTENSION_DETAIL.format(number), number)
    several = _find_several(written)
    if several:
        found = ", ".join(several)
        return InvalidPhone("phone_several", SEVERAL_DETAIL.format(found), found)
    joined = written.translate(SEPARATORS)
    if re.fullmatch(r"(\+|00)(?!7)[1-9][0-9]{6,14}", joined) and not joined.startswith("+8"):
        return InvalidPhone("phone_foreign", FOREIGN_DETAIL)
    return InvalidPhone("phone_format", PHONE_DETAIL)


def _find_several(written: str) -> list[str]:
    """Return the phones in a text that holds more than one."""
    parts = [_parse_number(part.strip(" '\t")) for part in SEVERAL.split(written) if part.strip()]
    phones = [phone for phone in parts if phone is not None]
    if len(phones) < 2:
        phones = [p for p in map(_parse_number, ADJACENT.findall(written)) if p is not None]
    return phones if len(phones) > 1 else []
