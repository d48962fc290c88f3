"""The number of segments of a text, at the limits of each encoding."""

import pytest

from shared.domain.segments import count_segments, measure_segments


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", "GSM-7", 0, 1),
        ("Hello", "GSM-7", 5, 1),
        ("a" * 160, "GSM-7", 160, 1),
        ("a" * 161, "GSM-7", 161, 2),
        ("a" * 306, "GSM-7", 306, 2),
        ("a" * 307, "GSM-7", 307, 3),
        ("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà", "GSM-7", 44, 1),
        ("[]{}^~|\\€\f", "GSM-7", 20, 1),
        ("€" * 80, "GSM-7", 160, 1),
        ("€" * 80 + "a", "GSM-7", 161, 2),
        # An escaped character is not split: 152 units and one of two units exceed 153.
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3),
        ("Привет", "UCS-2", 6, 1),
        ("я" * 70, "UCS-2", 70, 1),
        ("я" * 71, "UCS-2", 71, 2),
        ("я" * 134, "UCS-2", 134, 2),
        ("я" * 135, "UCS-2", 135, 3),
        ("a" * 69 + "я", "UCS-2", 70, 1),
        ("ç", "UCS-2", 1, 1),  # the alphabet has only the capital
        ("`", "UCS-2", 1, 1),
        ("\t", "UCS-2", 1, 1),
        ("😀", "UCS-2", 2, 1),
        ("😀" * 35, "UCS-2", 70, 1),
        ("😀" * 35 + "a", "UCS-2", 71, 2),
        # A surrogate pair is not split: 66 words and a pair exceed 67.
        ("я" * 66 + "😀" + "я" * 66, "UCS-2", 134, 3),
        ("я" * 2000, "UCS-2", 2000, 30),
    ],
)
def test_encoding_units_and_segments_are_counted(
    text: str, encoding: str, units: int, segments: int
) -> None:
    assert measure_segments(text) == (encoding, units, segments)
    assert count_segments(text) == segments
