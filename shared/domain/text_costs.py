"""What makes a text cost more SMS segments: foreign characters, links, and misspelt placeholders.

People see the number of segments; these say which part of the text is behind it.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from shared.domain.segments import (
    CAPACITY,
    GSM_ALPHABET,
    UCS_2,
    SegmentedText,
    measure_segments,
)
from shared.domain.templates import Placeholder, Template

# Up to this share of characters outside of GSM-7, the text is of Latin letters and they are few.
MAX_FOREIGN_SHARE = 0.2
LINK = re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+(?:\.[\w-]+)*\.[A-Za-zА-Яа-я]{2,6}/\S+")
SIMILARITY = 0.65  # two letters swapped in a word of three


class ForeignCharacters(NamedTuple):
    """Characters that make a text of GSM-7 one of UCS-2; without them it has fewer segments."""

    characters: str
    segments: int
    segments_without: int


class CostlyLinks(NamedTuple):
    """Links that take `units` of the text; without them it has fewer segments."""

    units: int
    segments: int
    segments_without: int


class WideCharacters(NamedTuple):
    """Emoji and others that take two units each; without them the text has fewer segments."""

    characters: str
    segments: int
    segments_without: int


class MisspeltPlaceholder(NamedTuple):
    """A placeholder that clients do not seem to have, and the known one that it resembles."""

    name: str
    suggestion: str


Cost = ForeignCharacters | CostlyLinks | WideCharacters
TextFinding = Cost | MisspeltPlaceholder


def find_costs(text: str) -> list[Cost]:
    """Return what makes a rendered text take more segments than its words do."""
    found: list[Cost] = []
    measured = measure_segments(text)
    if measured.encoding == UCS_2:
        foreign = [c for c in text if c not in GSM_ALPHABET]
        without = measure_segments("".join(c for c in text if c in GSM_ALPHABET)).segments
        wide = [c for c in text if c > "\uffff" or c in "\u200d\ufe0f"]
        if len(foreign) <= MAX_FOREIGN_SHARE * len(text) and without < measured.segments:
            found.append(ForeignCharacters(_distinct(foreign), measured.segments, without))
        elif wide:
            without = measure_segments("".join(c for c in text if c not in wide)).segments
            if without < measured.segments:
                found.append(WideCharacters(_distinct(wide), measured.segments, without))
    links = LINK.findall(text)
    if links:
        without = measure_segments(LINK.sub("", text)).segments
        if without < measured.segments:
            units = sum(measure_segments(link).units for link in links)
            found.append(CostlyLinks(units, measured.segments, without))
    return found


def find_misspelt_placeholders(
    template: Template, known: Iterable[str]
) -> list[MisspeltPlaceholder]:
    """Return the placeholders of a text that resemble a known name, regardless of case."""
    names = list(known)
    folded = {name.casefold(): name for name in reversed(names)}
    used = dict.fromkeys(part.name for part in template.parts if isinstance(part, Placeholder))
    found = []
    for name in used:
        similar = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=SIMILARITY)
        if name not in names and similar:
            found.append(MisspeltPlaceholder(name, folded[similar[0]]))
    return found


def text_without_values(template: Template) -> str:
    """Return a text with the defaults of its placeholders, and nothing for those without one."""
    return "".join(
        part.default or "" if isinstance(part, Placeholder) else part for part in template.parts
    )


def segment_capacity(measured: SegmentedText) -> int:
    """Return how many units fit into the segments that a text takes."""
    single, several = CAPACITY[measured.encoding]
    return single if measured.segments == 1 else several * measured.segments


def _distinct(characters: Iterable[str]) -> str:
    return "".join(dict.fromkeys(c for c in characters if c not in "\u200d\ufe0f"))[:20]
