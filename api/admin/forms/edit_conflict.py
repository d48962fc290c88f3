"""A form whose object was changed by another person meanwhile: compare both, and merge by choice.

A form carries the version that it was made from, and a digest of each field's value in that version
(its basis). So the fields that each of the two people changed are known without keeping the
versions of personal data.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self

import orjson
from flask_babel import LazyString, lazy_gettext

MINE, THEIRS = "mine", "theirs"
MAX_BASIS_LENGTH = 10_000


class ComparedField(NamedTuple):
    """What a person sees as one field: its label, and the form's fields that it consists of.

    `describe` returns its value as a text that is equal for equal values, in whichever language;
    `empty` stands for an empty one.
    """

    key: str
    label: LazyString
    names: tuple[str, ...]
    describe: Callable[[Mapping[str, str]], str]
    empty: LazyString = lazy_gettext("empty")


class FormBasis(NamedTuple):
    """The version that a form was made from, when that was changed last, and digests by field."""

    version: int
    changed_at: datetime
    digests: Mapping[str, str]

    @classmethod
    def of_version(
        cls,
        compared: Sequence[ComparedField],
        fields: Mapping[str, str],
        version: int,
        changed_at: datetime,
    ) -> Self:
        """Return the basis of a form that shows `fields`."""
        digests = {each.key: _digest(each.describe(fields)) for each in compared}
        return cls(version, changed_at, digests)

    @classmethod
    def from_form(cls, form: Mapping[str, str]) -> Self:
        """Return the basis that a submitted form states; version 0 if it states none."""
        given = form.get("basis", "")
        version = form.get("version", "")
        try:
            content = orjson.loads(given if len(given) <= MAX_BASIS_LENGTH else "")
            changed_at = datetime.fromisoformat(content["changed_at"]).astimezone(UTC)
            digests = {str(key): str(digest) for key, digest in content["digests"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            changed_at, digests = datetime.fromtimestamp(0, UTC), {}
        known = version.isascii() and version.isdecimal() and len(version) < 10
        return cls(int(version) if known else 0, changed_at, digests)

    def as_text(self) -> str:
        """Return the value of the form's field `basis`."""
        content = {"changed_at": self.changed_at.isoformat(), "digests": self.digests}
        return orjson.dumps(content).decode()


class ComparedValues(NamedTuple):
    """Two different values of one field. `picked` is the proposed one; empty if both changed it."""

    field: ComparedField
    mine: str
    theirs: str
    picked: str


def compare_fields(
    compared: Sequence[ComparedField],
    mine: Mapping[str, str],
    theirs: Mapping[str, str],
    basis: FormBasis,
    picks: Mapping[str, str],
) -> list[ComparedValues]:
    """Return the fields that differ. A field that only one of both changed proposes that change."""
    found = []
    for each in compared:
        own, other = each.describe(mine), each.describe(theirs)
        if own == other:
            continue
        before = basis.digests.get(each.key)
        proposed = {_digest(own): THEIRS, _digest(other): MINE}.get(before or "", "")
        picked = picks.get(f"pick-{each.key}", "")
        chosen = picked if picked in (MINE, THEIRS) else proposed
        found.append(ComparedValues(each, own, other, chosen))
    return found


def same_values(
    compared: Sequence[ComparedField], mine: Mapping[str, str], theirs: Mapping[str, str]
) -> bool:
    """Return whether nothing is left to choose."""
    return all(each.describe(mine) == each.describe(theirs) for each in compared)


def merge_fields(
    compared: Sequence[ComparedField],
    mine: Mapping[str, str],
    theirs: Mapping[str, str],
    picks: Mapping[str, str],
) -> dict[str, str] | None:
    """Return the fields as picked by `pick-KEY`; None if a field that differs is not picked."""
    merged = dict(mine)
    for each in compared:
        if each.describe(mine) == each.describe(theirs):
            continue
        picked = picks.get(f"pick-{each.key}")
        if picked == THEIRS:
            merged |= {name: theirs[name] for name in each.names}
        elif picked != MINE:
            return None
    return merged


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
