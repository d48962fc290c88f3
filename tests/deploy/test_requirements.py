"""The lock files pin every package with hashes and agree with requirements*.txt."""

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
    "requirements-local.lock.txt": ["requirements.txt", "requirements-local.txt"],
    "requirements-dev.lock.txt": [
        "requirements.txt",
        "requirements-local.txt",
        "requirements-dev.txt",
    ],
}
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\]+?))?(?: \\)?")
RERUN = "run `make lock` and commit the result"


def read_requirements(name: str) -> dict[str, str]:
    """Return a requirements file's packages with their exact versions."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pins: dict[str, str] = {}
    for line in lines:
        if not line or line.startswith("-r "):
            continue
        found = PIN.fullmatch(line)
        assert found, f"{name}: {line}: pin one exact version with =="
        pins[canonicalize_name(found[1])] = found[2]
    return pins


def read_lock(name: str) -> dict[str, tuple[str, Marker | None]]:
    """Return a lock file's packages with version and marker; each must have a hash."""
    pins: dict[str, tuple[str, Marker | None]] = {}
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
def test_lock_contains_the_direct_requirements(lock: str) -> None:
    pins = read_lock(lock)
    for source in LOCKS[lock]:
        for package, version in read_requirements(source).items():
            got = pins.get(package, ("nothing", None))[0]
            assert got == version, (
                f"{source} asks for {package} {version}, {lock} has {got}: {RERUN}"
            )


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_contains_the_indirect_requirements_and_nothing_else(lock: str) -> None:
    """Follow the metadata of the installed packages from the direct requirements."""
    pins = read_lock(lock)
    here = {name for name, (_, marker) in pins.items() if marker is None or marker.evaluate()}
    reached: set[str] = set()
    direct = {package for source in LOCKS[lock] for package in read_requirements(source)}
    waiting = [(package, frozenset[str]()) for package in direct]
    seen = set()
    while waiting:
        package, extras = waiting.pop()
        if (package, extras) in seen:
            continue
        seen.add((package, extras))
        reached.add(package)
        assert package in here, f"{lock} lacks {package}: {RERUN}"
        for line in importlib.metadata.requires(package) or ():
            need = Requirement(line)
            wanted = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            if wanted:
                name = canonicalize_name(need.name)
                version = pins.get(name, ("0", None))[0]
                assert need.specifier.contains(version, prereleases=True), (
                    f"{package} needs {need}, {lock} has {version}: {RERUN}"
                )
                waiting.append((name, frozenset(need.extras)))
    assert here == reached, f"{lock} contains unneeded packages: {here - reached}: {RERUN}"


def test_each_lock_pins_the_same_versions_as_the_smaller_one() -> None:
    product, local, development = (read_lock(name) for name in LOCKS)
    assert product.items() <= local.items() <= development.items(), RERUN
