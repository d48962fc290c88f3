"""The counter under a mailing's text, and what makes a text cost more, in the reader's language."""

from decimal import Decimal
from typing import NamedTuple

from flask import current_app
from flask_babel import gettext as _

from api.admin.forms.field_errors import describe_excess
from api.admin.presenters.formatting import format_money, format_number
from api.schemas.personalisation import MAX_TEXT_LENGTH
from shared.domain.segments import GSM_BASIC, GSM_EXTENSION, measure_segments
from shared.domain.templates import compile_stored_template
from shared.domain.text_costs import (
    CostlyLinks,
    ForeignCharacters,
    MisspeltPlaceholder,
    TextFinding,
    WideCharacters,
    segment_capacity,
    text_without_values,
)

# A text of 2,000 characters takes up to 60 segments.
MAX_COSTS = 60


class TextCounter(NamedTuple):
    """The counter of a text as it is now, and what the page's script needs to go on counting.

    `costs` are those of one segment and more, empty without a price. The patterns have the words in
    brackets that the script replaces.
    """

    shown: str
    excess: bool
    pattern: str
    excess_pattern: str
    limit: int
    basic: str
    extension: str
    costs: list[str]


def count_segments(text: str) -> TextCounter:
    """Count a text for the form; the values of placeholders are not known and count nothing."""
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    measured = measure_segments(text_without_values(compile_stored_template(text)))
    pattern = _("[units] of [capacity], [segments] SMS")
    if price is not None:
        pattern += ", [cost]"
    excess = len(text) > MAX_TEXT_LENGTH
    values = {
        "units": format_number(measured.units),
        "capacity": format_number(segment_capacity(measured)),
        "segments": format_number(measured.segments),
        "cost": "" if price is None else format_money(price * measured.segments),
    }
    shown = pattern
    for name, value in values.items():
        shown = shown.replace(f"[{name}]", value)
    return TextCounter(
        describe_excess(len(text)) if excess else shown,
        excess,
        pattern,
        _("At most [limit] characters: shorten the text by [excess]."),
        MAX_TEXT_LENGTH,
        "".join(sorted(GSM_BASIC)),
        "".join(sorted(GSM_EXTENSION)),
        [] if price is None else [str(format_money(price * n)) for n in range(1, MAX_COSTS + 1)],
    )


def describe_finding(finding: TextFinding) -> str:
    """Return what a finding means, and what it costs."""
    match finding:
        case MisspeltPlaceholder(name, suggestion):
            return str(
                _(
                    "No client seems to have %(name)s. Did you mean %(suggestion)s?",
                    name=f"{{{name}}}",
                    suggestion=f"{{{suggestion}}}",
                )
            )
        case ForeignCharacters(characters, now, without):
            return str(
                _(
                    "Because of %(characters)s an SMS holds 70 characters instead of 160: "
                    "%(now)s SMS instead of %(without)s.",
                    characters=characters,
                    now=now,
                    without=without,
                )
            )
        case WideCharacters(characters, now, without):
            return str(
                _(
                    "%(characters)s count as two characters each: %(now)s SMS instead of "
                    "%(without)s.",
                    characters=characters,
                    now=now,
                    without=without,
                )
            )
        case CostlyLinks(units, now, without):
            return str(
                _(
                    "Links take %(units)s characters: %(now)s SMS instead of %(without)s. A "
                    "shorter link costs less.",
                    units=units,
                    now=now,
                    without=without,
                )
            )
