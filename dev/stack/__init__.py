"""The local stack: the whole service on one machine, with real PostgreSQL and Valkey."""


class StackError(Exception):
    """An error that the user can correct; its text is the one line that is printed."""
