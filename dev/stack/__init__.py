"""The local stack: the whole service on one machine, with real PostgreSQL and Valkey."""


class StackError(Exception):
    """Something the person at the terminal can put right; its text is the one line they see."""
