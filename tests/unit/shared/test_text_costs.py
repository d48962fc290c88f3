"""What makes a text cost more segments, and placeholders that resemble a known one."""

import pytest

from shared.domain.segments import measure_segments
from shared.domain.templates import compile_template
from shared.domain.text_costs import (
    CostlyLinks,
    ForeignCharacters,
    MisspeltPlaceholder,
    WideCharacters,
    find_costs,
    find_misspelt_placeholders,
    segment_capacity,
    text_without_values,
)

LATIN = (
    "Only today: everything at half the price, in all of our shops. Come in and see for yourself"
)
RUSSIAN = "Только сегодня: всё за полцены во всех магазинах. Приходите сами!!!"
LINK = " https://shop.example/sale/2030/spring?from=sms"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LATIN, []),
        (LATIN + "…", [ForeignCharacters("…", 2, 1)]),
        (LATIN + " 🎉🎉", [ForeignCharacters("🎉", 2, 1)]),
        ("Half price 🎉", []),
        (RUSSIAN, []),
        (RUSSIAN + "🎉🎉", [WideCharacters("🎉", 2, 1)]),
        (RUSSIAN + LINK, [CostlyLinks(46, 2, 1)]),
        (LATIN + LINK, []),
        ("Смотрите shop.example/a", []),
    ],
)
def test_costs_are_found_where_they_add_a_segment(text: str, found: list[object]) -> None:
    assert find_costs(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{Имя}", []),
        ("{имя}", [MisspeltPlaceholder("имя", "Имя")]),
        ("{ИМЯ|друг}", [MisspeltPlaceholder("ИМЯ", "Имя")]),
        ("{Фамлия}", [MisspeltPlaceholder("Фамлия", "Фамилия")]),
        (
            "{Phone} {tga}",
            [MisspeltPlaceholder("Phone", "phone"), MisspeltPlaceholder("tga", "tag")],
        ),
        ("{город} {{имя}}", []),
    ],
)
def test_misspelt_placeholders_get_a_suggestion(text: str, found: list[object]) -> None:
    known = ["Имя", "Фамилия", "phone", "tag"]
    assert find_misspelt_placeholders(compile_template(text), known) == found


def test_a_text_is_counted_with_its_defaults_and_without_unknown_values() -> None:
    text = text_without_values(compile_template("{name|Dear client}, {city}{{}}"))
    assert text == "Dear client, {}"
    assert segment_capacity(measure_segments(RUSSIAN)) == 70
    assert segment_capacity(measure_segments(RUSSIAN * 2)) == 134
    assert segment_capacity(measure_segments(LATIN)) == 160
