"""Base models of what callers send: JSON bodies, changes and query strings. Unknown fields fail."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from api.http.pagination import DEFAULT_LIMIT
from api.schemas.fields import Cursor, Limit

# The default of what a PATCH may leave out; never read, as only given fields are.
UNSET: Any = None


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


class Query(BaseModel):
    """A query string: no unknown parameters. Values arrive as strings, and a string stays one."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    limit: Limit = Field(default=DEFAULT_LIMIT, description="How many items, at most.")
    cursor: Cursor = Field(default=0, description="The next_cursor of the page before.")
