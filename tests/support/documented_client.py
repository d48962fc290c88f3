"""A test client that validates every response against the OpenAPI document."""

import re
from functools import cache
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from api.openapi.operation import openapi_document

# Tests provoke defects, whose response is not documented.
DEFECT_STATUS = 500


class DocumentedClient(FlaskClient):
    """Fails if an operation responds with an undocumented status or body."""

    def open(self, *arguments: Any, **named: Any) -> TestResponse:
        # A response that is read whole is closed: an open export counts as under way.
        named.setdefault("buffered", True)
        response = super().open(*arguments, **named)
        operation = _find_operation(self.application, response)
        if operation is None or response.status_code == DEFECT_STATUS:
            return response
        where = f"{response.request.method} {response.request.path}"
        documented = operation["responses"].get(str(response.status_code))
        assert documented, f"{where} answers {response.status_code}, which is not documented"
        content = documented.get("content", {})
        if content or response.content_length:
            assert response.mimetype in content, f"{where} answers {response.mimetype}"
        if response.is_json:
            reference = content[response.mimetype]["schema"]["$ref"]
            errors = list(
                _build_validator(self.application, reference).iter_errors(response.get_json())
            )
            assert errors == [], f"{where} answers what is not documented: {errors[0].message}"
        return response


def _find_operation(app: Flask, response: TestResponse) -> dict[str, Any] | None:
    """Return the description of the operation that responded; None if it is not documented."""
    try:
        rule, _ = app.url_map.bind("").match(
            response.request.path, response.request.method, return_rule=True
        )
    except HTTPException:
        return None
    path = re.sub("<[a-z]+:([a-z_]+)>", r"{\1}", str(rule.rule))
    operations: dict[str, Any] = openapi_document(app)["paths"].get(path, {})
    found: dict[str, Any] | None = operations.get(response.request.method.lower())
    return found


@cache
def _build_validator(app: Flask, reference: str) -> Draft202012Validator:
    components = openapi_document(app)["components"]
    return Draft202012Validator({"$ref": reference, "components": components})
