"""Drop members of JSON objects that exceed what any schema permits, before they are validated.

An error for each of 75,000 unknown members takes seconds to make and megabytes to send. Validating
the first of them shows the same mistake.
"""

from collections.abc import Set
from typing import Any

# Of members that are no known fields, in the whole document: more than an object may have.
MAX_OTHER_MEMBERS = 200


def drop_excess_members(document: Any, known: Set[str]) -> int:
    """Remove members beyond MAX_OTHER_MEMBERS whose names are not `known`; return how many."""
    left, dropped = MAX_OTHER_MEMBERS, 0
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [each for each in value if isinstance(each, dict | list)]
            continue
        if not isinstance(value, dict):
            continue
        others = [name for name in value if name not in known]
        for name in others[left:]:
            del value[name]
        dropped += max(0, len(others) - left)
        left = max(0, left - len(others))
        waiting += [each for each in value.values() if isinstance(each, dict | list)]
    return dropped
