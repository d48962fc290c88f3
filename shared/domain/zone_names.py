"""Time zones as people write them: IANA names, old names, cities, and offsets.

A name has one meaning and is replaced by it. An offset such as МСК+3 or UTC+3 has several: it is
only a proposal, which a person confirms.
"""

import difflib
import re
from importlib.resources import files

from shared.domain.time_zones import TIME_ZONES

# Abbreviations that are IANA names. Their link is to the zone of one city; they stay as given.
ABBREVIATIONS = frozenset(
    ["CET", "CST6CDT", "EET", "EST", "EST5EDT", "HST", "MET", "MST", "MST7MDT", "PST8PDT", "WET"],
)
MOSCOW = "Europe/Moscow"
# The zone proposed for an offset from UTC in whole hours.
ZONES_BY_OFFSET = {
    0: "UTC",
    2: "Europe/Kaliningrad",
    3: MOSCOW,
    4: "Europe/Samara",
    5: "Asia/Yekaterinburg",
    6: "Asia/Omsk",
    7: "Asia/Krasnoyarsk",
    8: "Asia/Irkutsk",
    9: "Asia/Yakutsk",
    10: "Asia/Vladivostok",
    11: "Asia/Magadan",
    12: "Asia/Kamchatka",
}
CITIES = {
    MOSCOW: "мск|msk|москва|московское время|санкт-петербург|спб|питер|казань|нижний новгород|"
    "ростов-на-дону|краснодар|воронеж|сочи|тула|ярославль|рязань",
    "Europe/Kaliningrad": "калининград",
    "Europe/Samara": "самара|тольятти|ижевск",
    "Europe/Kirov": "киров",
    "Europe/Saratov": "саратов",
    "Europe/Volgograd": "волгоград",
    "Europe/Astrakhan": "астрахань",
    "Europe/Ulyanovsk": "ульяновск",
    "Europe/Simferopol": "симферополь|севастополь",
    "Asia/Yekaterinburg": "екатеринбург|челябинск|уфа|пермь|тюмень|оренбург",
    "Asia/Omsk": "омск",
    "Asia/Novosibirsk": "новосибирск",
    "Asia/Barnaul": "барнаул",
    "Asia/Tomsk": "томск",
    "Asia/Novokuznetsk": "новокузнецк|кемерово",
    "Asia/Krasnoyarsk": "красноярск",
    "Asia/Irkutsk": "иркутск|улан-удэ",
    "Asia/Chita": "чита",
    "Asia/Yakutsk": "якутск|благовещенск",
    "Asia/Vladivostok": "владивосток|хабаровск",
    "Asia/Sakhalin": "южно-сахалинск",
    "Asia/Magadan": "магадан",
    "Asia/Kamchatka": "петропавловск-камчатский|камчатка",
    "Asia/Anadyr": "анадырь",
    "Europe/Minsk": "минск",
    "Asia/Almaty": "алматы|алма-ата|астана",
}
OFFSET = re.compile(
    r"(?P<from>мск|msk|utc|gmt)?\s*(?:(?P<sign>[+\-\u2013\u2212])\s*(?P<hours>[0-9]{1,2})"
    r"(?::?(?P<minutes>00))?(?:\s*ч(?:\.|ас(?:а|ов)?)?)?)"
)
MAX_CLOSEST = 3


def _read_old_names() -> dict[str, str]:
    """Return the present names of zones that were renamed; tzdata names both.

    A zone of a country of its own (in zone.tab) is no old name, whatever its rules are shared with.
    """
    folder = files("tzdata").joinpath("zoneinfo")
    own = {
        line.split("\t")[2]
        for line in folder.joinpath("zone.tab").read_text("utf-8").splitlines()
        if line and line[0] != "#"
    }
    renamed = {}
    for line in folder.joinpath("tzdata.zi").read_text("utf-8").splitlines():
        if line.startswith("L "):
            _, present, name = line.split()
            if name not in own | ABBREVIATIONS and not present.startswith("Etc/"):
                renamed[name] = present
    return renamed


OLD_NAMES = _read_old_names()
_BY_LOWER_NAME = {zone.lower(): zone for zone in TIME_ZONES}
_BY_CITY = {city: zone for zone, cities in CITIES.items() for city in cities.split("|")}
_BY_CITY |= {zone.rpartition("/")[2].lower().replace("_", " "): zone for zone in CITIES}


def parse_zone(text: str) -> str | None:
    """Return the IANA name of the zone that a text names; None if it names none."""
    name = " ".join(text.split())
    zone = name if name in TIME_ZONES else _BY_LOWER_NAME.get(name.lower().replace(" ", "_"))
    if zone is not None:
        return OLD_NAMES.get(zone, zone)
    return _BY_CITY.get(name.lower().replace("ё", "е"))


def propose_zone(text: str) -> str | None:
    """Return the zone that an offset such as МСК+3 or UTC+3 may mean; None for another text."""
    found = OFFSET.fullmatch(" ".join(text.casefold().split()))
    if found is None:
        return None
    hours = int(found["hours"]) * (1 if found["sign"] == "+" else -1)
    return ZONES_BY_OFFSET.get(hours + (3 if found["from"] in ("мск", "msk") else 0))


def find_closest_zones(text: str) -> list[str]:
    """Return the zones whose names are the most similar to a text; some ms of CPU."""
    name = text.strip().lower()[:64]
    known = {**_BY_LOWER_NAME, **_BY_CITY}
    close = difflib.get_close_matches(name, known, 2 * MAX_CLOSEST, 0.5)
    zones = (OLD_NAMES.get(known[each], known[each]) for each in close)
    return list(dict.fromkeys(zones))[:MAX_CLOSEST]
