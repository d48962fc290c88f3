"""Reads secrets from files: `SECRET_KEY_FILE=/run/secrets/key` instead of `SECRET_KEY`.

Orchestrators mount secrets as files. An environment variable is visible to all who may inspect the
container, and to every child process.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

FILE_SUFFIX = "_FILE"
# Limits reading if the path is a device such as /dev/zero.
MAX_SECRET_BYTES = 64 * 1024
# Settings that may contain a password though their type is not SecretStr.
URL_SETTINGS = frozenset({"database_url", "redis_url"})


class UnreadableSecretFile(Exception):
    """A secret's file cannot be used; the text is the line to exit with."""


def accepts_secret_file(name: str, field: FieldInfo) -> bool:
    return name in URL_SETTINGS or SecretStr in _nested_types(field.annotation)


def read_secret_files(
    fields: Mapping[str, FieldInfo], environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the values of the fields for which the environment names a file."""
    return {
        name: _read_named_file(name.upper(), environment)
        for name, field in fields.items()
        if accepts_secret_file(name, field) and environment.get(name.upper() + FILE_SUFFIX)
    }


def _nested_types(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _nested_types(inner)


def _read_named_file(name: str, environment: Mapping[str, str]) -> str:
    variable = name + FILE_SUFFIX
    if environment.get(name):
        raise UnreadableSecretFile(
            f"settings {name} and {variable}: both are set; give one of them"
        )
    return read_secret_file(variable, Path(environment[variable]))


def read_secret_file(variable: str, path: Path) -> str:
    """Return a secret without the newline at its end. Raise UnreadableSecretFile."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise UnreadableSecretFile(
            f"setting {variable}: cannot read {path}: {error.strerror}"
        ) from None
    except ValueError:  # not UTF-8, or a null character in the path
        raise UnreadableSecretFile(f"setting {variable}: {path} is not UTF-8 text") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        problem = "is empty" if not text else f"is longer than {MAX_SECRET_BYTES} bytes"
        raise UnreadableSecretFile(f"setting {variable}: {path} {problem}")
    return text
