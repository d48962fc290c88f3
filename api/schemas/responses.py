"""The base model of JSON responses, the model of errors, and the format of instants."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import examples


def with_example(example: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a response model with this example in the OpenAPI document."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class ResponseModel(BaseModel):
    """A JSON response. The name of a subclass is its name in the OpenAPI document."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def present(cls, source: object, **computed: Any) -> dict[str, Any]:
        """Return the JSON of an object or a row: its values of this model's fields.

        Instants become texts. `computed` values are used instead of the source's.
        """
        read = source.__getitem__ if isinstance(source, Mapping) else partial(getattr, source)
        values = {
            name: computed[name] if name in computed else read(name) for name in cls.model_fields
        }
        return {
            name: format_instant(value) if isinstance(value, datetime) else value
            for name, value in values.items()
        }


class FaultAnswer(ResponseModel):
    """One error, with its location in the body (pointer) or in the address (parameter)."""

    pointer: str | None = Field(default=None, examples=["/phone"])
    parameter: str | None = Field(default=None, examples=["limit"])
    detail: str
    code: str


class UsingMailing(ResponseModel):
    """A mailing, and how many clients of an import it has used."""

    id: int
    clients: int


class ProblemAnswer(ResponseModel):
    """An error (RFC 9457)."""

    model_config = with_example(examples.PROBLEM)

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    code: str = Field(
        description="Stable; the page on errors lists all codes.", examples=["invalid_values"]
    )
    detail: str
    instance: str = Field(examples=["/api/v1/clients"])
    request_id: str | None
    errors: list[FaultAnswer] = Field(default=[], description="With 422: the values and rules.")
    client_id: int | None = Field(
        default=None, description="With `phone_taken`: the client that has the phone."
    )
    current_version: int | None = Field(
        default=None, description="With `version_mismatch`: the present version."
    )
    changed_by: str | None = Field(
        default=None, description="With `version_mismatch`: who made it, if that is known."
    )
    changed_at: datetime | None = Field(
        default=None, description="With `version_mismatch`: when it was made."
    )
    import_id: int | None = Field(
        default=None, description="With `import_not_last`: the later import."
    )
    edited: int | None = Field(
        default=None, description="With `clients_edited`: how many clients were edited."
    )
    mailings: list[UsingMailing] | None = Field(
        default=None, description="With `import_used`: the first 20 mailings that used clients."
    )


def format_instant(value: datetime | None) -> str | None:
    """Format an instant as all responses do: in UTC, with microseconds and Z."""
    if value is None:
        return None
    if value.tzinfo is not UTC:  # from PostgreSQL it is
        value = value.astimezone(UTC)
    return value.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
