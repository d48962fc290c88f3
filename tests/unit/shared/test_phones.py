"""Phone numbers: the exact form, and the forms that people and spreadsheets write."""

import pytest

from shared.domain.phones import InvalidPhone, is_phone, parse_phone


def test_only_eleven_digits_are_the_exact_form() -> None:
    assert is_phone("79161234567")
    assert not is_phone("+79161234567")
    assert not is_phone("79161234567\n")
    assert not is_phone("７９１６１２３４５６７")


@pytest.mark.parametrize(
    "phone",
    [
        "79161234567",
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
        *("", "9161234567", "791612345678", "7916123456", "89", "phone", "+89161234567"),
        *("+49 30 123456", "7916123456a", "７９１６１２３４５６７", "79161234567.0", "7 916 ext 1"),
    ],
)
def test_other_texts_are_rejected(phone: str) -> None:
    with pytest.raises(ValueError, match=r"^phone must be 11 digits and start with 7"):
        parse_phone(phone)


@pytest.mark.parametrize("phone", ["7,9E+10", "7.91612E+10", "7,91612e10", "7E+10", "'7,9E+10"])
def test_number_shortened_by_a_spreadsheet_is_explained(phone: str) -> None:
    with pytest.raises(ValueError, match="format the column as text"):
        parse_phone(phone)


def test_mobile_number_may_lack_the_prefix_where_that_is_allowed() -> None:
    assert parse_phone("916 123-45-67", prefix_optional=True) == "79161234567"
    with pytest.raises(InvalidPhone):
        parse_phone("495 123-45-67", prefix_optional=True)
