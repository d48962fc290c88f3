"""The simulated provider's settings, at its start and while it runs."""

from typing import Annotated, Any, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dev.provider.capacity import Overload
from dev.provider.faults import FAULTS, FaultSettings, HeaderText, Seconds


class SettingsError(ValueError):
    """A setting is unknown or invalid; the message names it."""


def _check_kind(kind: str) -> str:
    if kind not in FAULTS:
        raise ValueError(f"no such fault; there are {', '.join(FAULTS)}")
    return kind


def _expand_latency(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"min": value, "max": value}
    return value


Kind = Annotated[str, AfterValidator(_check_kind)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Latency(BaseModel):
    """Seconds before an answer, drawn evenly between the two."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Seconds = 0.0
    max: Seconds = 0.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Settings(FaultSettings):
    """All settings; `poison_ids` and `phones` name the fault that a message always gets.

    `capacity` is how many messages are served at once, and `overload` what happens to more.
    """

    token: HeaderText
    latency: Annotated[Latency, BeforeValidator(_expand_latency)] = Latency()
    faults: dict[Kind, Fraction] = Field(default_factory=dict)
    poison_ids: dict[int, Kind] = Field(default_factory=dict)
    phones: dict[int, Kind] = Field(default_factory=dict)
    down: bool = False
    capacity: Annotated[int, Field(ge=1)] | None = None
    overload: Overload = Overload.WAIT
    rate_limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ValueError("the faults' fractions add up to more than 1")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Validate plain JSON values; raise SettingsError with a one-line message."""
        try:
            return cls.model_validate_json(orjson.dumps(values, option=orjson.OPT_NON_STR_KEYS))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"]) or "settings"
            raise SettingsError(f"{where}: {first['msg']}") from None

    def replace(self, values: dict[str, Any]) -> Self:
        """Return a copy of these settings with `values` replaced."""
        return self.parse({**self.model_dump(mode="json"), **values})
