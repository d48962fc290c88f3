"""What an API token may do: each scope includes the ones before it."""

from enum import StrEnum


class Scope(StrEnum):
    """read: look; write: change clients and mailings; admin: tokens too."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(needed)
