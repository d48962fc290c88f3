"""Base models of JSON bodies, changes and query strings. Unknown fields are rejected."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from api.cursors import DEFAULT_LIMIT, Page
from api.schemas.fields import Cursor, Limit

# The default of a field that a PATCH may omit. It is never read: only sent fields are.
UNSET: Any = None


class Body(BaseModel):
    """A JSON body: unknown fields are rejected, types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    def sent_fields(self) -> dict[str, Any]:
        """Return the fields that the caller has sent, without defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Patch(Body):
    """A body of changes: omitted fields stay unchanged, so the schema shows no defaults."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        for field in schema["properties"].values():
            field.pop("default", None)
        return schema


class Query(BaseModel):
    """A query string: unknown parameters are rejected. All values arrive as strings."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    limit: Limit = Field(default=DEFAULT_LIMIT, description="How many items, at most.")
    cursor: Cursor = Field(default=0, description="The next_cursor of the previous page.")


class ListQuery(PageQuery):
    """A page of a list in either order."""

    order: Literal["asc", "desc"] = Field(
        default="asc",
        description="`desc`: the newest first. A cursor continues the order that it came from.",
    )

    def page(self) -> Page:
        """Return the page with one more row than its limit, to detect another page."""
        return Page(self.cursor, self.limit + 1, self.order == "desc")
