"""Encoding and number of segments of a text that is sent as SMS.

A text of characters of the GSM 7-bit alphabet has up to 160 units in a single segment, or 153 in
each of several; other texts are UCS-2, with 70 or 67. A character of the extension table has two
units, as has one outside of the basic plane in UCS-2; a segment never ends within a character.
"""

from collections.abc import Sequence
from typing import NamedTuple

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")
GSM_ALPHABET = GSM_BASIC | GSM_EXTENSION

GSM_7 = "GSM-7"
UCS_2 = "UCS-2"
# Units per encoding: in a single segment, and in each of several.
CAPACITY = {GSM_7: (160, 153), UCS_2: (70, 67)}


class SegmentedText(NamedTuple):
    """The size of a text as it is sent; units are septets of GSM-7, or 16-bit words of UCS-2."""

    encoding: str
    units: int
    segments: int


def measure_segments(text: str) -> SegmentedText:
    """Return the size of `text`; an empty text has one segment."""
    if GSM_ALPHABET.issuperset(text):
        encoding, uniform = GSM_7, GSM_EXTENSION.isdisjoint(text)
    else:
        encoding, uniform = UCS_2, max(text) <= "\uffff"
    single, several = CAPACITY[encoding]
    if uniform:  # one unit per character, as in nearly every text
        units = len(text)
        return SegmentedText(encoding, units, 1 if units <= single else -(-units // several))
    gsm = encoding == GSM_7
    widths = [2 if c > "\uffff" or (gsm and c in GSM_EXTENSION) else 1 for c in text]
    units = sum(widths)
    return SegmentedText(
        encoding, units, 1 if units <= single else _count_segments(widths, several)
    )


def _count_segments(widths: Sequence[int], capacity: int) -> int:
    segments, free = 1, capacity
    for width in widths:
        if width > free:
            segments, free = segments + 1, capacity
        free -= width
    return segments
