"""Bodies in the OpenAPI document: the responses of an operation, and files that are sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask_pydantic_spec.types import RequestBase, ResponseBase
from flask_pydantic_spec.utils import get_model_name
from pydantic import BaseModel

from api.openapi.problem_examples import LOCATION, REQUEST_ID, describe_problem
from api.schemas.responses import ProblemAnswer

CSV = "text/csv"
FILE_FORM = {
    "description": "An uploaded file.",
    "type": "object",
    "properties": {
        "file": {"description": "The CSV file.", "type": "string", "format": "binary"},
    },
    "required": ["file"],
}


@dataclass
class OperationResponses(ResponseBase):
    """All responses of an operation: one success, and problems by status."""

    status: int
    model: type[BaseModel] | None
    description: str
    problems: set[int]
    csv: str | None
    created: str | None

    def has_model(self) -> bool:
        """Return False, so that the library adds no validation error of its own format."""
        return False

    @property
    def models(self) -> Iterable[Any]:
        return [ProblemAnswer] if self.model is None else [self.model, ProblemAnswer]

    def generate_spec(self) -> Mapping[str, Any]:
        success: dict[str, Any] = {"description": self.description, "headers": {**REQUEST_ID}}
        if self.model is not None:
            success["content"] = {"application/json": {"schema": _schema_reference(self.model)}}
        if self.csv is not None:
            success["content"] = {CSV: {"schema": {"type": "string"}, "example": self.csv}}
        if self.status in (201, 202):
            success["headers"] |= LOCATION
        successes = {str(self.status): success}
        if self.created is not None:
            headers = {**success["headers"], **LOCATION}
            successes["201"] = {**success, "description": self.created, "headers": headers}
        return successes | {
            str(status): describe_problem(status) for status in sorted(self.problems)
        }


@dataclass
class CsvUpload(RequestBase):
    """A body that is a CSV file, which the view reads itself."""

    example: str
    model = None

    def has_model(self) -> bool:
        return False

    def generate_spec(self) -> Mapping[str, Any]:
        form = {"$ref": "#/components/schemas/FileForm"}
        return {
            "content": {
                # First: several generators support the first content type alone.
                "multipart/form-data": {"schema": form, "example": {"file": self.example}},
                CSV: {"schema": {"type": "string"}, "example": self.example},
            }
        }


def _schema_reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{get_model_name(model)}"}
