"""How a text travels as SMS: in which encoding, and in how many segments.

A text whose every character is in the GSM 7-bit alphabet takes 160 units in one segment, or 153 in
each of several; any other goes as UCS-2, with 70 or 67. A character of the extension table takes
two units, as does one outside of the basic plane in UCS-2, and neither is split between segments.
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
# Of each encoding: the units that fit a single segment, and one of several.
CAPACITY = {GSM_7: (160, 153), UCS_2: (70, 67)}


class SegmentedText(NamedTuple):
    """A text as it is sent: `units` are septets of GSM-7, or 16-bit words of UCS-2."""

    encoding: str
    units: int
    segments: int


def measure_segments(text: str) -> SegmentedText:
    """How many segments `text` takes; an empty one still takes one."""
    if GSM_ALPHABET.issuperset(text):
        encoding, even = GSM_7, GSM_EXTENSION.isdisjoint(text)
    else:
        encoding, even = UCS_2, max(text) <= "\uffff"
    single, several = CAPACITY[encoding]
    if even:  # a unit for each character, as in nearly every text
        units = len(text)
        return SegmentedText(encoding, units, 1 if units <= single else -(-units // several))
    gsm = encoding == GSM_7
    widths = [2 if c > "\uffff" or (gsm and c in GSM_EXTENSION) else 1 for c in text]
    units = sum(widths)
    return SegmentedText(encoding, units, 1 if units <= single else _pack(widths, several))


def _pack(widths: Sequence[int], capacity: int) -> int:
    segments, free = 1, capacity
    for width in widths:
        if width > free:
            segments, free = segments + 1, capacity
        free -= width
    return segments
