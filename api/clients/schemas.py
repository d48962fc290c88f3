"""Clients in the API: the bodies and queries that callers send, and the responses."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from api.errors import FieldError, InvalidFields
from api.schemas import examples
from api.schemas.base import UNSET, Body, ListQuery, Patch, Query
from api.schemas.csv_query import CsvQuery
from api.schemas.fields import Instant, OperatorCode, Phone, Search, Tag, Timezone
from api.schemas.personalisation import AttributeChanges, Attributes
from api.schemas.responses import ResponseModel, format_instant, with_example
from shared.db.models import Client
from shared.domain.error_texts import error_text

OPERATOR_CODE = (
    "Three digits. Derived from the phone (its digits 2 to 4), and following it, if null."
)

EXPORT_EXAMPLE = (
    "id,phone,operator_code,tag,timezone,created_at,updated_at\r\n1,79161234567,916,vip,"
    "Europe/Moscow,2026-12-01T09:00:00.000000Z,2026-12-01T09:00:00.000000Z\r\n"
)
ATTRIBUTES = "What a mailing's text may say of this client: {name} stands for the attribute name."


class WithTimezone(Body):
    """A body whose `timezone` falls back to the setting DEFAULT_TIMEZONE."""

    @model_validator(mode="before")
    @classmethod
    def _fill_timezone(cls, data: Any, info: Any) -> Any:
        default = (info.context or {}).get("default_timezone")
        if default is not None and isinstance(data, dict) and "timezone" not in data:
            return {**data, "timezone": default}
        return data


class NewClient(WithTimezone):
    """A client: also what replaces one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "phone": "79161234567",
                    "tag": "vip",
                    "timezone": "Europe/Moscow",
                    "attributes": {"name": "Anna"},
                }
            ]
        }
    )

    phone: Phone
    operator_code: OperatorCode | None = Field(default=None, description=OPERATOR_CODE)
    tag: Tag = ""
    timezone: Timezone
    attributes: Attributes = Field(default={}, description=ATTRIBUTES)


class ClientOfPhone(WithTimezone):
    """A client whose phone is in the path."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tag": "vip", "timezone": "Europe/Moscow"}]}
    )

    phone: Phone | None = Field(default=None, description="The phone in the path, or left out.")
    operator_code: OperatorCode | None = Field(default=None, description=OPERATOR_CODE)
    tag: Tag = ""
    timezone: Timezone
    attributes: Attributes = Field(default={}, description=ATTRIBUTES)

    def with_phone(self, phone: str) -> NewClient:
        """Return the body with the phone of the path. Raise InvalidFields if it names another."""
        if self.phone not in (None, phone):
            detail = error_text("must be the phone in the path, or left out")
            raise InvalidFields(FieldError(detail, "phone_differs", "/phone"))
        return NewClient.model_construct(**{**self.model_dump(), "phone": phone})


class ClientChanges(Patch):
    """Changes of a client."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tag": "regular"}]})

    phone: Phone = UNSET
    operator_code: OperatorCode | None = Field(default=None, description=OPERATOR_CODE)
    tag: Tag = UNSET
    timezone: Timezone = UNSET
    attributes: AttributeChanges = Field(
        default=UNSET, description="Those named here change; null removes one."
    )


class ClientFilter(Query):
    search: Search | None = Field(
        default=None,
        description="Those that have all of these words: each is the beginning of a word of the"
        " tag or of an attribute's value, whatever its case, or three or more digits of the phone.",
        examples=["anna 4567"],
    )
    phone: Phone | None = Field(default=None, description="The one with this phone.")
    operator_code: OperatorCode | None = Field(default=None, description="Those with this code.")
    tag: Tag | None = Field(default=None, description="Those with exactly this tag.")
    timezone: Timezone | None = Field(default=None, description="Those in this time zone.")
    updated_since: Instant | None = Field(
        default=None, description="Those created or changed not before this instant."
    )
    updated_until: Instant | None = Field(
        default=None, description="Those created or changed last before this instant."
    )


class ClientQuery(ClientFilter, ListQuery):
    """Which clients, page by page."""


class ClientCsvQuery(ClientFilter, CsvQuery):
    """Which clients, and in which format."""


class ClientAnswer(ResponseModel):
    """A client."""

    model_config = with_example(examples.CLIENT)

    id: int
    phone: str = Field(examples=["79161234567"])
    operator_code: str = Field(examples=["916"])
    tag: str
    timezone: str = Field(examples=["Europe/Moscow"])
    attributes: dict[str, str]
    created_at: datetime
    updated_at: datetime


class ClientPage(ResponseModel):
    """A page of clients, by id."""

    model_config = with_example(examples.page_of(examples.CLIENT))

    items: list[ClientAnswer]
    next_cursor: str | None


def present_client(client: Client) -> dict[str, Any]:
    return {
        "id": client.id,
        "phone": str(client.phone),
        "operator_code": client.operator_code,
        "tag": client.tag,
        "timezone": client.timezone,
        "attributes": client.attributes,
        "created_at": format_instant(client.created_at),
        "updated_at": format_instant(client.updated_at),
    }
