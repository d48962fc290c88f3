"""What callers may send: the bodies and query strings of the API. Unknown fields are refused."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    Strict,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from api.http.pagination import DEFAULT_LIMIT
from api.schemas.fields import (
    ClockTime,
    Cursor,
    Instant,
    Limit,
    OperatorCode,
    Phone,
    Tag,
    Timezone,
    TokenName,
    read_whole,
)
from api.schemas.personalisation import AttributeChanges, Attributes, MailingText
from shared.domain.scopes import Scope
from shared.domain.statuses import MailingStatus, MessageStatus

# The default of what a PATCH may leave out; never read, as only given fields are.
_UNSET: Any = None


class Body(BaseModel):
    """A JSON body: no unknown fields, no guessing at types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def given(self) -> dict[str, Any]:
        """The fields the caller sent, and nothing that was filled in."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Patch(Body):
    """A body of changes: what is left out stays as it is, so there are no defaults to show."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        for field in schema["properties"].values():
            field.pop("default", None)
        return schema


OPERATOR_CODE = (
    "Three digits. Derived from the phone (its digits 2 to 4), and following it, if null."
)


ATTRIBUTES = "What a mailing's text may say of this client: {name} stands for the attribute name."


class NewClient(Body):
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

    @model_validator(mode="before")
    @classmethod
    def _fill_timezone(cls, data: Any, info: Any) -> Any:
        default = (info.context or {}).get("default_timezone")
        if default is not None and isinstance(data, dict) and "timezone" not in data:
            return {**data, "timezone": default}
        return data


class ClientChanges(Patch):
    """Changes of a client."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tag": "regular"}]})

    phone: Phone = _UNSET
    operator_code: OperatorCode | None = Field(default=None, description=OPERATOR_CODE)
    tag: Tag = _UNSET
    timezone: Timezone = _UNSET
    attributes: AttributeChanges = Field(
        default=_UNSET, description="Those named here change; null removes one."
    )


MailingId = Annotated[int, Field(ge=1, le=2**63 - 1, examples=[17]), BeforeValidator(read_whole)]


class Filter(Body):
    """Who gets a mailing. What is empty means any; a client must match all that is given."""

    operator_codes: list[OperatorCode] = Field(default=[], max_length=1000)
    tags: list[Tag] = Field(default=[], max_length=1000)
    timezones: list[Timezone] = Field(default=[], max_length=1000)
    attributes: Attributes = Field(
        default={}, description="Clients whose attributes are equal to all of these."
    )
    exclude_mailing_ids: list[MailingId] = Field(
        default=[],
        max_length=20,
        description="Clients who were sent one of these mailings are left out.",
    )
    phones: list[Phone] = Field(
        default=[], max_length=10_000, description="These clients only; unknown phones do no harm."
    )

    @field_validator("operator_codes", "tags", "timezones", "exclude_mailing_ids", "phones")
    @classmethod
    def _once_each(cls, values: list[Any]) -> list[Any]:
        return list(dict.fromkeys(values))


class WindowHours(Body):
    """Local hours in which clients may be written to: from inclusive, to exclusive.

    A window whose end is earlier than its beginning crosses midnight.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"from": "09:00", "to": "21:00"}]})

    start: ClockTime = Field(alias="from", examples=["09:00"])
    end: ClockTime = Field(alias="to", examples=["21:00"])

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.start == self.end:
            raise PydanticCustomError(
                "window_empty", "from and to must differ; leave the window out to send at any hour"
            )
        return self


START_EXAMPLE = "2030-12-02T09:00:00+03:00"
END_EXAMPLE = "2030-12-02T21:00:00+03:00"
Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Spring sale"])]
RateLimit = Annotated[
    int,
    Field(ge=1, le=100_000, description="Messages per second, at most."),
    BeforeValidator(read_whole),
]


class NewMailing(Body):
    """A mailing to be made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Spring sale",
                    "text": "{name|Dear client}, only today: everything at half the price.",
                    "start_at": START_EXAMPLE,
                    "end_at": END_EXAMPLE,
                    "filter": {"operator_codes": ["916"], "tags": ["vip"]},
                    "window": {"from": "09:00", "to": "21:00"},
                }
            ]
        }
    )

    name: Name | None = None
    text: MailingText
    start_at: Instant = Field(examples=[START_EXAMPLE])
    end_at: Instant = Field(examples=[END_EXAMPLE])
    filter: Filter = Field(default_factory=Filter)
    window: WindowHours | None = None
    rate_limit: RateLimit | None = None


class MailingChanges(Patch):
    """Changes of a mailing. A filter replaces the former one as a whole."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"end_at": "2030-12-02T22:00:00+03:00"}]}
    )

    name: Name | None = None
    text: MailingText = _UNSET
    start_at: Instant = Field(default=_UNSET, examples=[START_EXAMPLE])
    end_at: Instant = Field(default=_UNSET, examples=[END_EXAMPLE])
    filter: Filter = _UNSET
    window: WindowHours | None = None
    rate_limit: RateLimit | None = None


class NewToken(Body):
    """An API token to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "billing", "scope": "write"}]}
    )

    name: TokenName
    scope: Annotated[Scope, Strict(False)] = Field(
        description="read: look; write: change clients and mailings; admin: everything."
    )
    expires_at: Instant | None = Field(default=None, description="When it ends; null: never.")


class Query(BaseModel):
    """A query string: no unknown parameters. Values arrive as strings, and a string stays one."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    limit: Limit = Field(default=DEFAULT_LIMIT, description="How many items, at most.")
    cursor: Cursor = Field(default=0, description="The next_cursor of the page before.")


class ClientFilter(Query):
    phone: Phone | None = Field(default=None, description="The one with this phone.")
    operator_code: OperatorCode | None = Field(default=None, description="Those with this code.")
    tag: Tag | None = Field(default=None, description="Those with exactly this tag.")
    timezone: Timezone | None = Field(default=None, description="Those in this time zone.")


class ClientQuery(ClientFilter, PageQuery):
    """Which clients, page by page."""


class MailingQuery(PageQuery):
    status: MailingStatus | None = Field(default=None, description="Mailings in this status.")


class MessageQuery(PageQuery):
    status: MessageStatus | None = Field(default=None, description="Messages in this status.")
