"""OpenAPI links, derived from the paths: a created object leads to the operations on it."""

from collections.abc import Iterator
from typing import Any


def add_links(paths: dict[str, dict[str, Any]]) -> None:
    """Add links to the 201 responses of all operations that create something."""
    for path, operations in paths.items():
        created = operations.get("post", {"responses": {}})["responses"].get("201")
        if created is None:
            continue
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {parameter: "$response.body#/id"},
                "description": operation["summary"],
            }
            for parameter, operation in _find_operations(paths, path)
        }
        if links:
            created["links"] = links


def _find_operations(
    paths: dict[str, dict[str, Any]], collection: str
) -> Iterator[tuple[str, Any]]:
    """Yield the operations on one object of a collection, with the name of its id parameter."""
    for path, operations in paths.items():
        parameter, _, rest = path.removeprefix(f"{collection}/{{").partition("}")
        if path.startswith(f"{collection}/{{") and "{" not in rest:
            yield from ((parameter, operation) for operation in operations.values())
