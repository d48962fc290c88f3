"""Programs that some tests need and that no Python package brings."""

import shutil

import pytest

# Program: the Debian package that has it.
PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "docker-compose": "docker-compose",
    "go": "golang-go",
    "java": "default-jdk-headless",
    "jq": "jq",
    "mvn": "maven",
    "nginx": "nginx-light",
    "npm": "npm",
    "pgbouncer": "pgbouncer",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
}


def require_program(name: str) -> str:
    """Return the program's path; skip the test where it is missing. CI fails on skipped tests."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {PACKAGES[name]})")
    return path
