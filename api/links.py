"""OpenAPI links: how an answer leads to further calls, derived from the paths themselves.

What was made can be asked for, changed and deleted by the `id` in the answer; so can the first item
of a list.
"""

from collections.abc import Iterator
from typing import Any


def add_links(paths: dict[str, dict[str, Any]]) -> None:
    """Add links to every answer that holds an id, or a list of things that have one."""
    for path, operations in paths.items():
        collection = path.rsplit("/", 1)[-1]
        for method, operation in operations.items():
            if method == "post" and "201" in operation["responses"]:
                answer, pointer = operation["responses"]["201"], "/id"
            elif method == "get" and _is_list(operation):
                answer, pointer = operation["responses"]["200"], "/items/0/id"
            else:
                continue
            links = {
                target["operationId"]: {
                    "operationId": target["operationId"],
                    "parameters": {name: f"$response.body#{pointer}"},
                    "description": target["summary"],
                }
                for name, target in _about(paths, collection)
            }
            if links:
                answer["links"] = links


def _is_list(operation: dict[str, Any]) -> bool:
    return any(parameter["name"] == "cursor" for parameter in operation["parameters"])


def _about(paths: dict[str, dict[str, Any]], collection: str) -> Iterator[tuple[str, Any]]:
    """The operations on one thing of a collection, and the name of its id among the parameters."""
    for path, operations in paths.items():
        _, found, rest = path.partition(f"/{collection}/{{")
        name, _, further = rest.partition("}")
        if found and "{" not in further:
            yield from ((name, operation) for operation in operations.values())
