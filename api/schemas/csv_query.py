"""The query parameter that every CSV download accepts."""

from pydantic import Field

from api.schemas.base import Query
from api.schemas.fields import Flag


class CsvQuery(Query):
    excel: Flag = Field(
        default=False, description="Semicolons and a byte order mark, as Excel expects them."
    )
