"""Secrets by file: `SECRET_KEY_FILE=/run/secrets/key` instead of `SECRET_KEY`, for every secret.

Orchestrators mount secrets as files; what is in the environment is seen by whoever may inspect a
container, and by every child of the process.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

SUFFIX = "_FILE"
# No secret is this long; /dev/zero is no secret.
LONGEST = 64 * 1024
# Addresses that hold a password, though not typed as secrets.
ADDRESSES = frozenset({"database_url", "redis_url"})


class UnreadableSecret(Exception):
    """A secret's file cannot be used; `str()` is the line to end the process with."""


def may_be_a_file(name: str, field: FieldInfo) -> bool:
    return name in ADDRESSES or SecretStr in _types(field.annotation)


def read_secrets(fields: Mapping[str, FieldInfo], environment: Mapping[str, str]) -> dict[str, str]:
    """The values of those of the fields that the environment names a file for."""
    return {
        name: _read(name.upper(), environment)
        for name, field in fields.items()
        if may_be_a_file(name, field) and environment.get(name.upper() + SUFFIX)
    }


def _types(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)


def _read(name: str, environment: Mapping[str, str]) -> str:
    by_file = name + SUFFIX
    if environment.get(name):
        raise UnreadableSecret(f"settings {name} and {by_file}: both are set; give one of them")
    path = Path(environment[by_file])
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise UnreadableSecret(f"setting {by_file}: cannot read {path}: {error.strerror}") from None
    except ValueError:  # no UTF-8, or a null in the path
        raise UnreadableSecret(f"setting {by_file}: {path} is not UTF-8 text") from None
    if not text or len(content) > LONGEST:
        problem = "is empty" if not text else f"is longer than {LONGEST} bytes"
        raise UnreadableSecret(f"setting {by_file}: {path} {problem}")
    return text
