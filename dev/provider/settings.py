"""What can be set about the simulated provider, at its start and while it runs."""

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

from dev.provider.faults import FAULTS


class SettingsError(ValueError):
    """A setting is unknown or has a value that makes no sense; the message says which."""


def _known_kind(kind: str) -> str:
    if kind not in FAULTS:
        raise ValueError(f"no such fault; there are {', '.join(FAULTS)}")
    return kind


def _fixed_latency(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"min": value, "max": value}
    return value


Kind = Annotated[str, AfterValidator(_known_kind)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
HeaderText = Annotated[str, Field(min_length=1, pattern=r"^[\x21-\x7e]+$")]


class Latency(BaseModel):
    """Seconds before an answer, drawn evenly between the two."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Seconds = 0.0
    max: Seconds = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Settings(BaseModel):
    """Everything settable; `poison_ids` and `phones` name the fault a message always gets."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    token: HeaderText
    latency: Annotated[Latency, BeforeValidator(_fixed_latency)] = Latency()
    faults: dict[Kind, Fraction] = {}
    poison_ids: dict[int, Kind] = {}
    phones: dict[int, Kind] = {}
    down: bool = False
    rate_limit: Annotated[int, Field(ge=1)] | None = None
    retry_after: Annotated[int, Field(ge=0)] = 3
    late_after: Seconds = 15.0
    drip_interval: Seconds = 1.0
    redirect_to: HeaderText = "http://elsewhere.invalid/"
    seed: int = 0

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ValueError("the faults' fractions add up to more than 1")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Settings from plain JSON values, refused with one readable line."""
        try:
            return cls.model_validate_json(orjson.dumps(values, option=orjson.OPT_NON_STR_KEYS))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"]) or "settings"
            raise SettingsError(f"{where}: {first['msg']}") from None

    def changed(self, values: dict[str, Any]) -> Self:
        """These settings with those given replaced."""
        return self.parse({**self.model_dump(mode="json"), **values})
