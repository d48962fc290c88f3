"""The time zones that a client may have: IANA names; and the version of their rules."""

import zoneinfo

import tzdata  # type: ignore[import-untyped]

# The version of the rules that this process uses (see shared/__init__.py), such as 2026f.
RULES_VERSION: str = tzdata.IANA_VERSION
# Excludes names that depend on the machine or denote no zone.
TIME_ZONES = frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})
