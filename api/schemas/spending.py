"""What was sent in SMS segments and in money, as responses present it."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from flask import current_app
from pydantic import Field

from api.schemas import examples
from api.schemas.responses import ResponseModel, with_example

CENTS = Decimal("0.01")


class Segments(ResponseModel):
    """SMS segments of messages that were sent, and of those in doubt.

    A message counts once, however often it was repeated.
    """

    model_config = with_example(examples.SEGMENTS)

    sent: int
    in_doubt: int


class Cost(ResponseModel):
    """The price of segments, by the setting `SEGMENT_PRICE`."""

    model_config = with_example(examples.COST)

    sent: str = Field(examples=["7728.00"])
    in_doubt: str = Field(examples=["0.00"])
    currency: str | None = Field(
        description="An ISO 4217 code; null where the setting `CURRENCY` is empty.",
        examples=["RUB"],
    )


SEGMENTS = Field(description="Null for a mailing of an older version, which did not count them.")
COST = Field(description="Null where no price is set (`SEGMENT_PRICE`).")


def format_cost(segments: int) -> str | None:
    """Return the price of so many segments; None if no price is set."""
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    return None if price is None else f"{(segments * price).quantize(CENTS):f}"


def present_spending(sent: int, in_doubt: int) -> dict[str, Any]:
    """Return the members `segments` and `cost` for so many segments."""
    cost = {
        "sent": format_cost(sent),
        "in_doubt": format_cost(in_doubt),
        "currency": current_app.config["CURRENCY"],
    }
    return {
        "segments": {"sent": sent, "in_doubt": in_doubt},
        "cost": None if cost["sent"] is None else cost,
    }


def present_counted(source: object) -> dict[str, Any]:
    """Return the members `segments` and `cost` of mailings, an object or a row.

    They are null if messages were sent and no segments counted, as older versions did.
    """
    read = source.__getitem__ if isinstance(source, Mapping) else partial(getattr, source)
    segments = read("sent_segments"), read("in_doubt_segments")
    if (read("sent") or read("in_doubt")) and not any(segments):
        return {"segments": None, "cost": None}
    return present_spending(*segments)
