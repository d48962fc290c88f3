"""Cells, headers and clients as people have them, with what each means (tests/data/import)."""

import csv
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "import"


def _read(name: str) -> list[tuple[str, ...]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


# A cell, and the phone or `reject`.
PHONES: list[tuple[str, ...]] = [(raw, expected) for raw, expected, _ in _read("phones.csv")]
# A header, and the field or the attribute.
HEADERS = _read("headers.csv")
# A cell, the zone that it means, and the zone that is proposed.
ZONES = _read("zones.csv")
ROUND_TRIP: list[dict[str, Any]] = json.loads((FOLDER / "roundtrip.json").read_text("utf-8"))
