"""The time zones a client may be in: the IANA names."""

import zoneinfo

# Names that depend on the machine, or that stand for no zone at all, mean nothing to a mailing.
TIME_ZONES = frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})
