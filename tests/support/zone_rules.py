"""Two versions of the time zone rules: those of the package `tzdata`, and older ones.

`zone_rules_2025b.json` holds, of version 2025b (public domain), the files of the zones whose clocks
differ from those of 2026f in the years 2020 to 2037 (compressed, in hexadecimal): the others are
equal.
"""

import tempfile
import zlib
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import orjson

from shared.domain import send_windows

OLD_VERSION = "2025b"
PINNED_RULES = Path(str(resources.files("tzdata"))) / "zoneinfo"
_OLD_FILES: dict[str, str] = orjson.loads(
    Path(__file__).with_name("zone_rules_2025b.json").read_bytes()
)
CHANGED_ZONES = tuple(sorted(_OLD_FILES))


@contextmanager
def old_rules() -> Iterator[Path]:
    """Yield a folder with the rules of 2025b; zones that it lacks are those of the package."""
    with tempfile.TemporaryDirectory() as name:
        for zone, content in _OLD_FILES.items():
            file = Path(name) / zone
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(zlib.decompress(bytes.fromhex(content)))
        yield Path(name)


@contextmanager
def use_rules(folder: Path) -> Iterator[None]:
    """Let this process use the rules in `folder`, as one of another version of the product."""
    _set_path((str(folder),))
    try:
        yield
    finally:
        _set_path(())


@contextmanager
def use_old_rules() -> Iterator[None]:
    """Let this process use the rules of 2025b."""
    with old_rules() as folder, use_rules(folder):
        yield


def _set_path(path: tuple[str, ...]) -> None:
    zoneinfo.reset_tzpath(path)
    zoneinfo.ZoneInfo.clear_cache()
    send_windows._possible_edges.cache_clear()
