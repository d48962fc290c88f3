"""Secrets by file: `SECRET_KEY_FILE=/run/secrets/key` instead of `SECRET_KEY`, for every secret.

Orchestrators mount secrets as files; what is in the environment is seen by whoever may inspect a
container, and by every child of the process.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

FILE_SUFFIX = "_FILE"
# No secret is this long; /dev/zero is no secret.
MAX_SECRET_BYTES = 64 * 1024
# Addresses that hold a password, though not typed as secrets.
URL_SETTINGS = frozenset({"database_url", "redis_url"})


class UnreadableSecretFile(Exception):
    """A secret's file cannot be used; `str()` is the line to end the process with."""


def accepts_secret_file(name: str, field: FieldInfo) -> bool:
    return name in URL_SETTINGS or SecretStr in _types(field.annotation)


def read_secret_files(
    fields: Mapping[str, FieldInfo], environment: Mapping[str, str]
) -> dict[str, str]:
    """The values of those of the fields that the environment names a file for."""
    return {
        name: _read(name.upper(), environment)
        for name, field in fields.items()
        if accepts_secret_file(name, field) and environment.get(name.upper() + FILE_SUFFIX)
    }


def _types(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)


def _read(name: str, environment: Mapping[str, str]) -> str:
    by_file = name + FILE_SUFFIX
    if environment.get(name):
        raise UnreadableSecretFile(f"settings {name} and {by_file}: both are set; give one of them")
    path = Path(environment[by_file])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise UnreadableSecretFile(
            f"setting {by_file}: cannot read {path}: {error.strerror}"
        ) from None
    except ValueError:  # no UTF-8, or a null in the path
        raise UnreadableSecretFile(f"setting {by_file}: {path} is not UTF-8 text") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        problem = "is empty" if not text else f"is longer than {MAX_SECRET_BYTES} bytes"
        raise UnreadableSecretFile(f"setting {by_file}: {path} {problem}")
    return text
