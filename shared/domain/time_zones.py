"""The time zones that a client may have: IANA names."""

import zoneinfo

# Excludes names that depend on the machine or denote no zone.
TIME_ZONES = frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})
