"""Find clients by parts: of their phones, and of the words in their tags and attributes.

Each word of a search is the beginning of a word that the client has; digits are also a part of the
phone. Words are found by the index `clients_words`. A part of a phone reads all phones, which the
index would not be worth (docs/adr/0054-clients-are-found-by-the-beginnings-of-words.md).
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Text, cast, func, literal_column, select, union
from sqlalchemy.dialects.postgresql import TSQUERY

from api.clients.schemas import ClientFilter
from api.cursors import between
from shared.db.client_words import CLIENT_WORDS
from shared.db.models import Client
from shared.domain.phones import InvalidPhone, parse_phone

# Fewer digits would be a part of nearly every phone.
MIN_PHONE_DIGITS = 3
PHONE_PART = re.compile(r"[+]?[\d\s().\u2010-\u2015-]+", re.ASCII)
WORDS: ColumnElement[Any] = literal_column(f"({CLIENT_WORDS})")


class ClientSearch(NamedTuple):
    """Values that the clients found must have; None means any. `search` has words of them."""

    phone: int | None = None
    operator_code: str | None = None
    tag: str | None = None
    timezone: str | None = None
    search: str | None = None
    updated_since: datetime | None = None
    updated_until: datetime | None = None

    @classmethod
    def from_query(cls, query: ClientFilter) -> Self:
        """Return the search that the query string of a list or an export describes."""
        phone = None if query.phone is None else int(query.phone)
        others = {name: getattr(query, name) for name in cls._fields if name != "phone"}
        return cls(phone, **others)

    @property
    def named_phone(self) -> int | None:
        """The one phone that this searches for, if it does."""
        if self.phone is not None or self.search is None:
            return self.phone
        try:
            return int(parse_phone(self.search))
        except InvalidPhone:
            return None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the SQL conditions of this search; deleted clients are never found."""
        equal = ("phone", "operator_code", "tag", "timezone")
        return [
            Client.deleted_at.is_(None),
            *(
                getattr(Client, name) == getattr(self, name)
                for name in equal
                if getattr(self, name) is not None
            ),
            *(match_clients(self.search) if self.search else []),
            *between(Client.updated_at, self.updated_since, self.updated_until),
        ]


def match_clients(search: str) -> list[ColumnElement[bool]]:
    """Return the SQL conditions of clients that match every word of a search."""
    if _phone_digits(search):
        return [_match_digits(search)]
    terms = search.split()
    numbers = [term for term in terms if _phone_digits(term)]
    words = [term for term in terms if term not in numbers]
    return [*([_match_words(words)] if words else []), *map(_match_digits, numbers)]


def _phone_digits(text: str) -> str | None:
    """Return the digits of a part of a phone, or None if the text is not one."""
    if PHONE_PART.fullmatch(text.strip()) is None:
        return None
    digits = re.sub(r"\D", "", text)
    return digits if len(digits) >= MIN_PHONE_DIGITS else None


def _match_digits(text: str) -> ColumnElement[bool]:
    """Match a part of the phone, or a word that begins with it, such as a card's number."""
    by_words = select(Client.id).where(_match_words(text.split()))
    by_phone = select(Client.id).where(_match_phone(text))
    # One after the other: in an OR, PostgreSQL would parse the words of every client.
    return Client.id.in_(union(by_phone, by_words))


def _match_phone(text: str) -> ColumnElement[bool]:
    try:
        return Client.phone == int(parse_phone(text))
    except InvalidPhone:
        pass
    digits = _phone_digits(text) or ""
    if text.lstrip().startswith("+"):
        return _begin_with(digits)
    contains = cast(Client.phone, Text).contains(digits)
    # 8 is how people begin a phone within the country.
    return contains | _begin_with("7" + digits[1:]) if digits.startswith("8") else contains


def _begin_with(digits: str) -> ColumnElement[bool]:
    rest = 11 - len(digits)
    if rest < 0:
        return cast(Client.phone, Text).startswith(digits)
    first = int(digits) * 10**rest
    return Client.phone.between(first, first + 10**rest - 1)


def _match_words(terms: list[str]) -> ColumnElement[bool]:
    parsed = " & ".join(f"({' | '.join(_prefixes(term))})" for term in terms)
    query: ColumnElement[Any] = func.to_tsquery(literal_column("'simple'::regconfig"), parsed)
    if not all(map(str.isalnum, terms)):
        # PostgreSQL keeps an e-mail as one word, and parses the beginning of one as several.
        query = query.op("||")(cast(parsed, TSQUERY))
    return WORDS.bool_op("@@")(query)


def _prefixes(term: str) -> Iterator[str]:
    """Yield a term in the syntax of tsquery, once for each place of an ё that may be an е."""
    plain = term.lower().replace("ё", "е")
    variants = {term.lower(), plain}
    variants |= {
        plain[:at] + "ё" + plain[at + 1 :] for at, letter in enumerate(plain) if letter == "е"
    }
    for variant in sorted(variants):
        escaped = variant.replace("\\", "\\\\").replace("'", "''")
        yield f"'{escaped}':*"
