"""How a text travels as SMS: in which encoding, and in how many segments.

A text whose every character is in the GSM 7-bit alphabet takes 160 units in one segment, or 153 in
each of several; any other goes as UCS-2, with 70 or 67. A character of the extension table takes
two units, as does one outside of the basic plane in UCS-2, and neither is split between segments.
"""

from collections.abc import Sequence
from typing import NamedTuple

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = frozenset("\f^{}\\[~]|€")
GSM_ALPHABET = BASIC | EXTENSION

GSM_7 = "GSM-7"
UCS_2 = "UCS-2"
# Of each encoding: the units that fit a single segment, and one of several.
CAPACITY = {GSM_7: (160, 153), UCS_2: (70, 67)}


class Segmented(NamedTuple):
    """A text as it is sent: `units` are septets of GSM-7, or 16-bit words of UCS-2."""

    encoding: str
    units: int
    segments: int


def segment(text: str) -> Segmented:
    """How many segments `text` takes; an empty one still takes one."""
    encoding = GSM_7 if GSM_ALPHABET.issuperset(text) else UCS_2
    single, several = CAPACITY[encoding]
    if encoding == GSM_7 and EXTENSION.isdisjoint(text):
        return _even(text, encoding)
    if encoding == UCS_2 and max(text) <= "\uffff":
        return _even(text, encoding)
    wide = EXTENSION.__contains__ if encoding == GSM_7 else "\uffff".__lt__
    widths = [2 if wide(character) else 1 for character in text]
    units = sum(widths)
    return Segmented(encoding, units, 1 if units <= single else _pack(widths, several))


def _even(text: str, encoding: str) -> Segmented:
    """The same for a text of which every character takes one unit, as nearly all do."""
    single, several = CAPACITY[encoding]
    units = len(text)
    return Segmented(encoding, units, 1 if units <= single else -(-units // several))


def _pack(widths: Sequence[int], capacity: int) -> int:
    segments, free = 1, capacity
    for width in widths:
        if width > free:
            segments, free = segments + 1, capacity
        free -= width
    return segments
