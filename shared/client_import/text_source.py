"""Reads text files in the encodings that people have, as a stream of UTF-8.

The encodings are UTF-8 and UTF-16, with or without a byte order mark, Windows-1251 and the older
Russian ones of DOS and Unix. A text that reads as Russian in none of them is refused: a name in the
wrong encoding would be sent to its owner.
"""

import codecs
import io
import re
from collections.abc import Callable

from shared.client_import.bad_file import FileTooLarge, UnreadableFile

READ_BYTES = 128 * 1024
# As much is read before the format is recognised, and before an encoding of one byte is.
RECOGNISED_BYTES = 4096
DETECTED_BYTES = 64 * 1024

SAVE_AS_CSV = "save it as CSV (in Excel: CSV UTF-8) and send that"
OTHER_FORMATS = {
    b"PK\x03\x04": f"The file is an Excel workbook or an archive: {SAVE_AS_CSV}.",
    b"\xd0\xcf\x11\xe0": "The file is an old Excel workbook (.xls), or one with a password: "
    "save it as .xlsx without a password, or as CSV UTF-8.",
    b"\x1f\x8b": "The file is compressed: unpack it and send what is inside.",
    b"\xff\xfe\x00\x00": f"The file is UTF-32: {SAVE_AS_CSV}.",
    b"\x00\x00\xfe\xff": f"The file is UTF-32: {SAVE_AS_CSV}.",
    b"%PDF": f"The file is a PDF: {SAVE_AS_CSV}.",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Encodings of one byte a character, the likeliest first, and how many letters make each certain.
RUSSIAN_ENCODINGS = {"cp1251": 0, "cp866": 20, "koi8-r": 20}
NOT_A_LETTER = re.compile(r"[^\x00-\x7fА-Яа-яЁёІіЇїЄє\xa0№«»–—‘’“”„…•°]")
WORD = re.compile(r"[A-Za-zА-Яа-яЁёІіЇїЄє]{3,}")
RUSSIAN = re.compile("[А-Яа-яЁёІіЇїЄє]")
VOWEL = re.compile("[аеёиоуыэюяіїє]", re.IGNORECASE)


class TextSource(io.RawIOBase):
    """The file's bytes as UTF-8. `read(n)` returns up to n bytes, none at the end."""

    def __init__(self, read: Callable[[int], bytes], limit: int | None):
        self.size = 0
        self._read = read
        self._limit = limit
        self._ready = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._is_utf8 = False
        self._undecided = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        ended = False
        while not self._ready and not ended:
            chunk = self._read_chunk()
            ended = not chunk
            self._ready = self._recode(chunk)
        taken = self._ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)

    def _read_chunk(self) -> bytes:
        first = not self.size
        chunk = self._read(READ_BYTES)
        while first and 0 < len(chunk) < RECOGNISED_BYTES and (more := self._read(READ_BYTES)):
            chunk += more
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise file_too_large(self._limit)
        if first and chunk:
            chunk = self._recognise(chunk)
        if self._decoder is None and b"\x00" in chunk:
            raise UnreadableFile(f"The file is not text: {SAVE_AS_CSV}.", "not_csv")
        return chunk

    def _recognise(self, chunk: bytes) -> bytes:
        """Find the format by the first bytes; return them without a byte order mark."""
        for magic, detail in OTHER_FORMATS.items():
            if chunk.startswith(magic):
                raise UnreadableFile(detail, "not_csv")
        for mark, encoding in BYTE_ORDER_MARKS.items():
            if chunk.startswith(mark):
                self._use(encoding)
                return chunk.removeprefix(mark)
        # In UTF-16 every second byte of digits, delimiters and line ends is NUL.
        even, odd = chunk[0::2].count(0), chunk[1::2].count(0)
        if max(even, odd) * 8 > len(chunk) and not min(even, odd):
            self._use("utf-16-le" if odd else "utf-16-be")
        return chunk

    def _use(self, encoding: str) -> None:
        self._is_utf8 = encoding == "utf-8"
        if not self._is_utf8:
            self._decoder = codecs.getincrementaldecoder(encoding)()

    def _recode(self, chunk: bytes) -> bytes:
        if self._is_utf8:
            return chunk
        if self._decoder is None:
            chunk, ended = self._undecided + chunk, not chunk
            self._undecided = b""
            if chunk.isascii():
                return chunk
            if len(chunk) < DETECTED_BYTES and not ended:
                self._undecided = chunk
                return b""
            self._use(_detect_encoding(chunk, ended))
            return self._recode(chunk)
        text = self._decoder.decode(chunk, not chunk)
        if "\x00" in text:
            raise UnreadableFile(f"The file is not text: {SAVE_AS_CSV}.", "not_csv")
        return text.encode()


def file_too_large(limit: int) -> FileTooLarge:
    """Return the error of a file of more than `limit` bytes."""
    return FileTooLarge(
        f"The file is larger than {limit} bytes: split it and send the parts.",
        "file_too_large",
        megabytes=limit // 2**20,
    )


def _detect_encoding(chunk: bytes, ended: bool) -> str:
    """Return the encoding of bytes that are not all ASCII. Raise UnreadableFile."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(chunk, ended)
    except UnicodeDecodeError:
        # Hardly any letter of Windows-1251 is valid UTF-8; of damaged UTF-8 most are.
        text = chunk.decode("utf-8", "replace")
        wrong = text.count("\ufffd")
        if sum(not character.isascii() for character in text) - wrong > wrong:
            return "utf-8"
    else:
        return "utf-8"
    for encoding, letters in RUSSIAN_ENCODINGS.items():
        text = chunk.decode(encoding, "replace")
        if len(RUSSIAN.findall(text)) >= letters and _reads_as_russian(text):
            return encoding
    raise UnreadableFile(
        "The encoding of the file is unknown; it is neither UTF-8 nor Windows-1251: "
        f"{SAVE_AS_CSV}.",
        "encoding_unknown",
    )


def _reads_as_russian(text: str) -> bool:
    """Return whether a decoded text looks like Russian, and not like another encoding's letters."""
    letters = len(RUSSIAN.findall(text))
    if len(NOT_A_LETTER.findall(text)) * 20 > letters:
        return False
    words = [word for word in WORD.findall(text) if RUSSIAN.search(word)]
    mixed = sum(not all(map(RUSSIAN.match, word)) for word in words)
    # Read in the wrong encoding, small letters become capitals, and vowels become consonants.
    spoken = sum(VOWEL.search(word) is not None for word in words)
    swapped = sum(word[0].islower() and word[1:].isupper() for word in words)
    return mixed * 3 <= len(words) and spoken * 3 >= len(words) and swapped * 3 <= len(words)
