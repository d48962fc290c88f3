"""OpenAPI links: how an answer leads to further calls, derived from the paths themselves.

What was made can be asked for, changed and deleted by the `id` in the answer.
"""

from collections.abc import Iterator
from typing import Any


def add_links(paths: dict[str, dict[str, Any]]) -> None:
    """Add links to the answers of everything that makes something."""
    for path, operations in paths.items():
        made = operations.get("post", {"responses": {}})["responses"].get("201")
        if made is None:
            continue
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {parameter: "$response.body#/id"},
                "description": operation["summary"],
            }
            for parameter, operation in _about(paths, path)
        }
        if links:
            made["links"] = links


def _about(paths: dict[str, dict[str, Any]], collection: str) -> Iterator[tuple[str, Any]]:
    """The operations on one thing of a collection, and the name of its id among the parameters."""
    for path, operations in paths.items():
        parameter, _, further = path.removeprefix(f"{collection}/{{").partition("}")
        if path.startswith(f"{collection}/{{") and "{" not in further:
            yield from ((parameter, operation) for operation in operations.values())
