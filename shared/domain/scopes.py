"""Scopes of API tokens; each includes the previous ones."""

from enum import StrEnum


class Scope(StrEnum):
    """read: read only; write: change clients and mailings; admin: manage tokens as well."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(needed)
