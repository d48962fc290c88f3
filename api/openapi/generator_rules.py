"""Rewrites schemas so that common client generators make code from them that compiles and works.

The rules hold for every schema of the document, so that a new model cannot forget them:

- `additionalProperties: false` becomes `unevaluatedProperties: false`: the former makes the
  generator for TypeScript send each field twice, in camel case too.
- Integers that may exceed 32 bits (ids, totals) get `format: int64`: without it Java and Go read
  them into 32 bits.
- `format` beside `anyOf` moves into the branch that it describes.
- Named enums are written out where they are used: the generator for Go makes a constant of each
  value, and two enums with the value `cancelled` collide.
- A default of a body's field moves into its description, unless it is empty: openapi-typescript
  takes a field with a default for a required one.
- A field that may be null, and else is an object or one of an enum's values, is not required: the
  generator for Java reads a required one without looking for null. Answers have it all the same.
- Titles that only repeat a field's name are removed: some generators name types by them.
"""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
MAX_INT32 = 2**31 - 1
NULL = {"type": "null"}
REFERENCE = "#/components/schemas/"


def apply_generator_rules(document: dict[str, Any]) -> None:
    """Apply the rules to all schemas and parameters of an OpenAPI document, in place."""
    schemas = document["components"]["schemas"]
    enums = {REFERENCE + name: schema for name, schema in schemas.items() if "enum" in schema}
    for name in enums:
        del schemas[name.removeprefix(REFERENCE)]
    for name, schema in schemas.items():
        _rewrite(schema, enums)
        schema["title"] = name
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                _rewrite(parameter["schema"], enums)


def _rewrite(schema: Schema, enums: Mapping[str, Schema]) -> None:
    """Rewrite a schema and all schemas in it."""
    if schema.get("$ref") in enums:
        enum = enums[schema.pop("$ref")]
        schema |= {"type": enum["type"], "enum": [*enum["enum"]]}
    schema.pop("title", None)
    if schema.get("additionalProperties") is False:
        del schema["additionalProperties"]
        schema["unevaluatedProperties"] = False
    if "anyOf" in schema and "format" in schema:
        (branch,) = (each for each in schema["anyOf"] if each != NULL)
        branch["format"] = schema.pop("format")
    if schema.get("type") == "integer" and schema.get("maximum", MAX_INT32 + 1) > MAX_INT32:
        schema["format"] = "int64"
    for field in schema.get("properties", {}).values():
        _rewrite(field, enums)
        default = field.pop("default", None)
        if default:
            field["description"] = f"{field.get('description', '')} Default: {default}.".strip()
    if "required" in schema:
        _make_nullable_optional(schema)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            _rewrite(schema[key], enums)
    for branch in schema.get("anyOf", ()):
        _rewrite(branch, enums)


def _make_nullable_optional(schema: Schema) -> None:
    required = [
        name
        for name in schema.pop("required")
        if not is_nullable_object(schema["properties"][name])
    ]
    if required:
        schema["required"] = required


def is_nullable_object(schema: Schema) -> bool:
    """Return whether a field is null or else an object or one of an enum's values."""
    branches = schema.get("anyOf", ())
    return NULL in branches and any({"$ref", "enum"} & set(branch) for branch in branches)
