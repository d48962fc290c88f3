"""Encoding and number of segments of a text that is sent as SMS.

A text of characters of the GSM 7-bit alphabet has up to 160 units in a single segment, or 153 in
each of several; other texts are UCS-2, with 70 or 67. A character of the extension table has two
units, as has one outside of the basic plane in UCS-2; a segment never ends within a character.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")
GSM_ALPHABET = GSM_BASIC | GSM_EXTENSION
# A pattern is several times as fast as a set.
_GSM_BASIC_TEXT = re.compile(f"[{re.escape(''.join(sorted(GSM_BASIC)))}]*")
_GSM_TEXT = re.compile(f"[{re.escape(''.join(sorted(GSM_ALPHABET)))}]*")

GSM_7 = "GSM-7"
UCS_2 = "UCS-2"
# Units per encoding: in a single segment, and in each of several.
GSM_SINGLE, GSM_SEVERAL = 160, 153
UCS_SINGLE, UCS_SEVERAL = 70, 67
CAPACITY = {GSM_7: (GSM_SINGLE, GSM_SEVERAL), UCS_2: (UCS_SINGLE, UCS_SEVERAL)}
# A text of so many characters has one segment, whichever they are.
ALWAYS_SINGLE = UCS_SINGLE // 2


class SegmentedText(NamedTuple):
    """The size of a text as it is sent; units are septets of GSM-7, or 16-bit words of UCS-2."""

    encoding: str
    units: int
    segments: int


def measure_segments(text: str) -> SegmentedText:
    """Return the size of `text`; an empty text has one segment."""
    if _GSM_BASIC_TEXT.fullmatch(text):
        encoding, uniform = GSM_7, True
    elif _GSM_TEXT.fullmatch(text):
        encoding, uniform = GSM_7, False
    else:
        encoding, uniform = UCS_2, _is_basic_plane(text)
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


def count_segments(text: str) -> int:
    """Return the number of segments of `text`, like measure_segments but faster."""
    length = len(text)
    if length <= ALWAYS_SINGLE:
        return 1
    if _GSM_BASIC_TEXT.fullmatch(text):
        return 1 if length <= GSM_SINGLE else -(-length // GSM_SEVERAL)
    if not _GSM_TEXT.fullmatch(text) and _is_basic_plane(text):
        return 1 if length <= UCS_SINGLE else -(-length // UCS_SEVERAL)
    return measure_segments(text).segments


def _is_basic_plane(text: str) -> bool:
    """Return whether each character of a text is one unit of UCS-2."""
    return len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text)


def _count_segments(widths: Sequence[int], capacity: int) -> int:
    segments, free = 1, capacity
    for width in widths:
        if width > free:
            segments, free = segments + 1, capacity
        free -= width
    return segments
