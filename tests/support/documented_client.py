"""A client of the API that holds every answer a test gets against the OpenAPI document."""

import re
from functools import cache
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from api.openapi.operation import openapi_document

# Of a defect, which tests provoke and no document announces.
DEFECT = 500


class DocumentedClient(FlaskClient):
    """Fails where an operation answers with a status or a body that its document does not know."""

    def open(self, *arguments: Any, **named: Any) -> TestResponse:
        answer = super().open(*arguments, **named)
        operation = _operation(self.application, answer)
        if operation is None or answer.status_code == DEFECT:
            return answer
        where = f"{answer.request.method} {answer.request.path}"
        documented = operation["responses"].get(str(answer.status_code))
        assert documented, f"{where} answers {answer.status_code}, which is not documented"
        content = documented.get("content", {})
        if content or answer.content_length:
            assert answer.mimetype in content, f"{where} answers {answer.mimetype}"
        if answer.is_json:
            reference = content[answer.mimetype]["schema"]["$ref"]
            faults = list(_validator(self.application, reference).iter_errors(answer.get_json()))
            assert faults == [], f"{where} answers what is not documented: {faults[0].message}"
        return answer


def _operation(app: Flask, answer: TestResponse) -> dict[str, Any] | None:
    """What the document says of the operation that has answered; None if there is none."""
    try:
        rule, _ = app.url_map.bind("").match(
            answer.request.path, answer.request.method, return_rule=True
        )
    except HTTPException:
        return None
    path = re.sub("<id:([a-z_]+)>", r"{\1}", str(rule.rule))
    operations: dict[str, Any] = openapi_document(app)["paths"].get(path, {})
    found: dict[str, Any] | None = operations.get(answer.request.method.lower())
    return found


@cache
def _validator(app: Flask, reference: str) -> Draft202012Validator:
    components = openapi_document(app)["components"]
    return Draft202012Validator({"$ref": reference, "components": components})
