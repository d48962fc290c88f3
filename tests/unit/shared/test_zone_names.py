"""Time zones as people write them: what is certain, what is proposed, and what is unknown."""

import pytest

from shared.client_import.row_rules import RowParser
from shared.domain.time_zones import TIME_ZONES
from shared.domain.zone_names import (
    CITIES,
    OLD_NAMES,
    ZONES_BY_OFFSET,
    find_closest_zones,
    parse_zone,
    propose_zone,
)
from tests.support.import_cases import ZONES


@pytest.mark.parametrize(("raw", "zone", "proposal"), ZONES)
def test_cells_as_people_have_them(raw: str, zone: str, proposal: str) -> None:
    assert parse_zone(raw) == (zone or None)
    assert propose_zone(raw) == (proposal or None)


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        *(("europe/moscow", "Europe/Moscow"), (" Moscow ", "Europe/Moscow"), ("UTC", "UTC")),
        *(("Europe/Amsterdam", "Europe/Amsterdam"), ("CET", "CET"), ("US/Eastern", None)),
        *(("America/New York", "America/New_York"), ("Нижний  Новгород", "Europe/Moscow")),
    ],
)
def test_only_old_names_are_replaced(text: str, zone: str | None) -> None:
    assert parse_zone(text) == (zone or "America/New_York")


@pytest.mark.parametrize(
    ("text", "proposal"),
    [
        *(
            ("мск +2", "Asia/Yekaterinburg"),
            ("MSK-1", "Europe/Kaliningrad"),
            ("+3", "Europe/Moscow"),
        ),
        *(("UTC+03:00", "Europe/Moscow"), ("GMT+10", "Asia/Vladivostok"), ("UTC+5:30", None)),
        *(("UTC-5", None), ("3", None), ("Омск+3", None)),
    ],
)
def test_offsets_are_proposals(text: str, proposal: str | None) -> None:
    assert parse_zone(text) is None
    assert propose_zone(text) == proposal


def test_all_zones_that_can_result_exist() -> None:
    assert {*CITIES, *OLD_NAMES.values(), *ZONES_BY_OFFSET.values()} <= TIME_ZONES


def test_closest_zones_are_named() -> None:
    assert find_closest_zones("Europe/Moskow")[0] == "Europe/Moscow"
    assert find_closest_zones("Екатеренбург")[0] == "Asia/Yekaterinburg"
    assert len(find_closest_zones("Mars/Base")) == 3


def test_proposal_is_used_only_after_confirmation() -> None:
    parser = RowParser(None, None, zone_optional=True)
    for cell in ("МСК+3", "мск + 3"):
        errors = parser.parse_row("79161234567", "", None, cell)
        assert isinstance(errors, list)
        assert [(e.code, e.found) for e in errors] == [("timezone_offset", "Asia/Omsk")]
    assert parser.proposed_zones == {"мск+3": ("Asia/Omsk", 2)}
    confirmed = RowParser(None, None, zone_optional=True, zones={"МСК+3": "Asia/Novosibirsk"})
    assert confirmed.parse_zone("мск + 3") == "Asia/Novosibirsk"
