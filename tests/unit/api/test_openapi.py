"""The OpenAPI document is complete and has valid examples of everything."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator

from api import create_app
from api.errors import Conflict
from api.openapi.deprecation import Deprecation
from api.openapi.generator_rules import is_nullable_object
from api.openapi.operation import openapi_document
from api.openapi.operation import operation as describe
from shared.domain.error_texts import error_text

JSON = ("application/json", "application/problem+json")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(openapi_document(make_offline_app()))


def make_offline_app() -> Flask:
    """Return an application that has met neither its database nor Redis."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "DATABASE_URL": "postgresql://nouser:secret@127.0.0.1:1/nothing",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "API_BOOTSTRAP_TOKEN": "test-0e7c4a95b3f81d62",
            "SECRET_KEY": "test-6b1f93d8c42e7a05",
            "DEFAULT_TIMEZONE": "",
        }.items():
            environment.setenv(name, value)
        return create_app()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each body that is sent or answered: its place, media type and description."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "request", media_type, content
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            yield status, media_type, content


def examples(document: dict[str, Any], described: dict[str, Any]) -> list[Any]:
    """Return the examples of a body: its own, or those of the schema it refers to."""
    if "example" in described:
        return [described["example"]]
    schema = described["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("examples", ()))


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return the validator of a schema that may refer to the document's components."""
    return Draft202012Validator({**schema, "components": document["components"]})


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    known = {tag["name"] for tag in document["tags"] if tag["description"]}
    names: dict[str, str] = {}
    for where, operation in operations(document):
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert set(operation["tags"]) <= known, where
        # The view's name: generators and links find an operation by it.
        assert names.setdefault(operation["operationId"], where) == where


def test_every_parameter_and_header_is_described(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        for parameter in operation["parameters"]:
            assert parameter.get("description"), f"{where}: {parameter['name']}"
            assert {"type", "$ref"} & set(parameter["schema"]), f"{where}: {parameter['name']}"
        for status, answer in operation["responses"].items():
            assert answer["description"], f"{where}: {status}"
            for name, header in answer.get("headers", {}).items():
                assert header.get("description"), f"{where}: {status} {name}"


def test_every_body_has_a_valid_example(document: dict[str, Any]) -> None:
    seen = 0
    for where, operation in operations(document):
        for part, media_type, described in contents(operation):
            found = examples(document, described)
            assert found, f"{where}: {part} {media_type} has no example"
            if media_type not in JSON:
                continue
            for example in found:
                faults = list(validator(document, described["schema"]).iter_errors(example))
                assert faults == [], f"{where}: {part}: {faults[0].message}"
                seen += 1
    assert seen > 100


def test_every_schema_accepts_its_own_examples(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            faults = list(validator(document, schema).iter_errors(example))
            assert faults == [], f"{name}: {faults[0].message}"


def test_examples_of_problems_fit_their_operations(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        path = where.partition(" ")[2]
        for part, media_type, described in contents(operation):
            if media_type != "application/problem+json":
                continue
            (example,) = examples(document, described)
            assert example["status"] == int(part), where
            assert example["detail"], f"{where}: {part}"
            assert "{" not in example["instance"], where
            assert example["instance"].count("/") == path.count("/"), where
            assert ("errors" in example) == (part == "422"), where


def test_validation_of_examples_can_fail(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["ClientAnswer"]
    (example,) = described["examples"]
    for wrong in ({**example, "colour": "red"}, {k: v for k, v in example.items() if k != "tag"}):
        assert list(validator(document, described).iter_errors(wrong))


def schemas(part: object) -> Iterator[dict[str, Any]]:
    """Yield every JSON object of the document."""
    if isinstance(part, dict):
        yield part
        for each in part.values():
            yield from schemas(each)
    elif isinstance(part, list):
        for each in part:
            yield from schemas(each)


def test_schemas_follow_the_rules_of_client_generators(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    assert not [name for name, schema in components.items() if "enum" in schema]
    for schema in schemas({"paths": document["paths"], "components": components}):
        assert schema.get("additionalProperties") is not False
        assert not ("anyOf" in schema and "format" in schema)
        assert not ("$ref" in schema and "enum" in schema)
        for name in schema.get("required", ()) if "properties" in schema else ():
            assert not is_nullable_object(schema["properties"][name]), name
        if schema.get("type") == "integer" and "maximum" not in schema and "example" not in schema:
            assert schema.get("format") == "int64" or schema.get("minimum") == 1, schema


def request_schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of parameters and bodies with its place, also those it refers to."""
    components = document["components"]["schemas"]
    for where, operation in operations(document):
        begun = [(f"{where} {each['name']}", each["schema"]) for each in operation["parameters"]]
        begun += [(where, c["schema"]) for part, _, c in contents(operation) if part == "request"]
        for place, schema in begun:
            if "$ref" in schema:
                schema = components[schema["$ref"].rpartition("/")[2]]
            yield place, schema
            begun += [
                (f"{place}.{name}", each) for name, each in schema.get("properties", {}).items()
            ]
            begun += [(place, each) for each in schema.get("anyOf", ())]
            begun += [
                (place, schema[key])
                for key in ("items", "additionalProperties")
                if isinstance(schema.get(key), dict)
            ]


def test_numbers_and_days_of_requests_are_bounded(document: dict[str, Any]) -> None:
    """What a schema admits and the code refuses is a surprise for its callers."""
    seen = {"integer": 0, "number": 0, "date": 0}
    for place, schema in request_schemas(document):
        if place == "PUT /api/v1/policy.version":
            continue  # which is ignored
        if schema.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= schema.keys(), place
            seen[schema["type"]] += 1
        if schema.get("format") == "date":
            assert "pattern" in schema, place
            seen["date"] += 1
    assert all(seen.values()), seen


def test_probes_need_no_token(document: dict[str, Any]) -> None:
    for where, operation in operations(document):
        assert operation["security"] == ([{"bearer": []}] if "/api/v1/" in where else []), where


def test_a_deprecated_operation_announces_its_end() -> None:
    """In every answer, those of errors too, and in the document."""
    end = Deprecation(date(2030, 1, 1), date(2030, 7, 1), "use `GET /new`.")

    failing = False

    @describe(
        "clients", response=None, description="Old.", public=True, problems=(409,), deprecation=end
    )
    def read_old() -> str:
        """Read the old"""
        if failing:
            raise Conflict(error_text("It is too old."), "action_impossible")
        return "old"

    app = make_offline_app()
    app.add_url_rule("/old", view_func=read_old)
    for status in (200, 409):
        failing = status == 409
        answer = app.test_client().get("/old")
        assert answer.status_code == status
        assert answer.headers["Deprecation"] == "@1893456000"
        assert answer.headers["Sunset"] == "Mon, 01 Jul 2030 00:00:00 GMT"
    refused = app.test_client().get("/old?colour=red")
    assert (refused.status_code, "Sunset" in refused.headers) == (422, True)
    assert "Deprecation" not in app.test_client().get("/healthz").headers
    described = openapi_document(app)["paths"]["/old"]["get"]
    assert described["deprecated"] is True
    assert "use `GET /new`" in described["description"]
    for answered in described["responses"].values():
        assert {"Deprecation", "Sunset"} <= answered["headers"].keys()


def test_callers_get_notice_before_an_operation_ends() -> None:
    soon = Deprecation(date(2030, 1, 1), date(2030, 2, 1), "use `GET /new`.")
    decorate = describe("clients", response=None, description="Old.", deprecation=soon)
    with pytest.raises(ValueError, match="180 days"):
        decorate(lambda: "old")
