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


def test_browser_tests_find_the_fields_of_a_mailing_among_the_names_of_others() -> None:
    """The form lists other mailings by name or text, and each of them is a label."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((TESTS / "e2e").glob("test_*.py"))
        for line in path.read_text().splitlines()
        if re.search(r'get_by_label\("(Name|Text)"', line)
    ]
    assert not found, f'use get_by_role("textbox", name=…): {found}'
