"""Phone numbers: the exact form, and the forms that people and spreadsheets write."""

import pytest

from shared.domain.phones import InvalidPhone, is_phone, parse_phone
from tests.support.import_cases import PHONES


def test_only_eleven_digits_are_the_exact_form() -> None:
    assert is_phone("79161234567")
    assert not is_phone("+79161234567")
    assert not is_phone("79161234567\n")
    assert not is_phone("７９１６１２３４５６７")


@pytest.mark.parametrize(("raw", "expected"), PHONES)
def test_cells_as_people_have_them(raw: str, expected: str) -> None:
    if expected == "reject":
        with pytest.raises(InvalidPhone):
            parse_phone(raw)
    else:
        assert parse_phone(raw) == expected


@pytest.mark.parametrize(
    "phone",
    [
        "79161234567",
        "9161234567",
        "916.123.45.67",
        "9161234567.0",
        "89161234567,00",
        "79 161 234 567,00",
        "79,161,234,567",
        "7,9161234567E+10",
        "8 10 7 916 123 45 67",
        "=79161234567",
        "\u202a+7 916 123-45-67\u202c",
        "\u201979161234567",
        "+79161234567",
        "+7 (916) 123-45-67",
        "8 916 123 45 67",
        "8(916)1234567",
        "7-916-123-45-67",
        "7.916.123.45.67",
        "+7\u00a0916\u202f123\u201345\u201367",
        " 79161234567 ",
        "'+79161234567",
    ],
)
def test_written_forms_are_parsed(phone: str) -> None:
    assert parse_phone(phone) == "79161234567"


@pytest.mark.parametrize(
    "phone",
    [
        *("", "791612345678", "7916123456", "89", "phone", "+89161234567", "495 123-45-67"),
        *("7916123456a", "７９１６１２３４５６７", "7 916 ext 1", "=79161234567+1"),
    ],
)
def test_other_texts_are_rejected(phone: str) -> None:
    with pytest.raises(ValueError, match=r"^phone must be 11 digits and start with 7"):
        parse_phone(phone)


@pytest.mark.parametrize(
    ("phone", "code", "found"),
    [
        *((text, "phone_shortened", "") for text in ("7,9E+10", "7.91612E+10", "7,91612e10")),
        *((text, "phone_shortened", "") for text in ("7E+10", "'7,9E+10", "7.91612345E+10")),
        ("7 011 234 567.0", "phone_decimal", ""),
        ("7 011 234 567,00", "phone_decimal", ""),
        ("79161234567.5", "phone_decimal", ""),
        ("7.9161234567", "phone_decimal", ""),
        ("79161234567 79161234568", "phone_several", "79161234567, 79161234568"),
        ("8 916 123-45-67\n916 123-45-68", "phone_several", "79161234567, 79161234568"),
        ("8 495 123-45-67 / 8 495 123-45-68", "phone_several", "74951234567, 74951234568"),
        ("+7 916 123-45-67 ext. 5", "phone_extension", "5"),
        ("8 495 123-45-67, доб.104", "phone_extension", "104"),
        ("8 495 123-45-67 #104", "phone_extension", "104"),
        ("+49 30 123456", "phone_foreign", ""),
        ("00380 50 123 45 67", "phone_foreign", ""),
    ],
)
def test_what_is_wrong_is_named(phone: str, code: str, found: str) -> None:
    with pytest.raises(InvalidPhone) as raised:
        parse_phone(phone)
    assert (raised.value.code, raised.value.found) == (code, found)
    assert found in str(raised.value)
