"""Errors of a file that is unusable as a whole."""


class BadFile(Exception):
    """The file is unusable as a whole; the text says why, and how to correct it.

    `code` and `values` serve translations of the text.
    """

    def __init__(self, detail: str, code: str, **values: object):
        super().__init__(detail)
        self.code, self.values = code, values


class UnreadableFile(BadFile):
    """The file is not text, or is in an unsupported encoding."""


class FileTooLarge(BadFile):
    """The file exceeds the size limit."""


class BadHeader(BadFile):
    """The file does not begin with a valid header."""
