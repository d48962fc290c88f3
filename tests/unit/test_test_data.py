"""Data of tests that share a running system: none depends on which tests ran before it."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PHONE = re.compile(r"[78][ (]{0,2}9\d\d[ )]{0,2}\d{3}[ -]?\d\d[ -]?\d\d|\b79\d{8,9}|\b79\d{3,}\{")


def test_browser_tests_take_their_phones_from_the_system_that_they_share() -> None:
    literals = [
        f"{path.name}: {found[0]}"
        for path in sorted((TESTS / "e2e").glob("test_*.py"))
        for found in PHONE.finditer(path.read_text())
    ]
    assert not literals, f"use site.new_phone() or site.new_phones(n): {literals}"
