"""What is installed is pinned to the byte, completely, and is what requirements*.txt ask for."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {
    "requirements.lock.txt": ["requirements.txt"],
    "requirements-dev.lock.txt": ["requirements.txt", "requirements-dev.txt"],
}
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\]+?))?(?: \\)?")
AGAIN = "run `make lock`, and commit what it writes"


def asked(name: str) -> dict[str, str]:
    """A requirements file's packages with their versions; they must be exact."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pins = {}
    for line in lines:
        if not line or line.startswith("-r "):
            continue
        found = PIN.fullmatch(line)
        assert found, f"{name}: {line}: pin one exact version with =="
        pins[canonicalize_name(found[1])] = found[2]
    return pins


def locked(name: str) -> dict[str, tuple[str, Marker | None]]:
    """A lock's packages: version, and where they are wanted; each must have a hash."""
    pins = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if block.startswith("#"):
            continue
        first, *rest = block.splitlines()
        found = PIN.fullmatch(first)
        assert found, f"{name}: cannot read {first!r}"
        hashes = [line for line in rest if re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line)]
        assert hashes, f"{name}: {found[1]} has no hash"
        marker = Marker(found[3]) if found[3] else None
        pins[canonicalize_name(found[1])] = (found[2], marker)
    return pins


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_what_is_asked_for(lock: str) -> None:
    pins = locked(lock)
    for source in LOCKS[lock]:
        for package, version in asked(source).items():
            got = pins.get(package, ("nothing", None))[0]
            assert got == version, (
                f"{source} asks for {package} {version}, {lock} has {got}: {AGAIN}"
            )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_what_those_need_in_turn_and_nothing_else(lock: str) -> None:
    """By what the installed packages themselves say, followed from what is asked for."""
    pins = locked(lock)
    here = {name for name, (_, marker) in pins.items() if marker is None or marker.evaluate()}
    reached: set[str] = set()
    waiting = [(package, frozenset[str]()) for source in LOCKS[lock] for package in asked(source)]
    seen = set()
    while waiting:
        package, extras = waiting.pop()
        if (package, extras) in seen:
            continue
        seen.add((package, extras))
        reached.add(package)
        assert package in here, f"{lock} lacks {package}: {AGAIN}"
        for line in importlib.metadata.requires(package) or ():
            need = Requirement(line)
            wanted = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            if wanted:
                name = canonicalize_name(need.name)
                version = pins.get(name, ("0", None))[0]
                assert need.specifier.contains(version, prereleases=True), (
                    f"{package} needs {need}, {lock} has {version}: {AGAIN}"
                )
                waiting.append((name, frozenset(need.extras)))
    assert here == reached, f"{lock} holds what nobody needs: {here - reached}: {AGAIN}"


def test_both_locks_pin_the_same() -> None:
    product, everything = (locked(name) for name in LOCKS)
    assert product.items() <= everything.items(), AGAIN
