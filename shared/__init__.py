"""Code that the API and the workers share: configuration, database, domain rules, queues, logs."""

import zoneinfo

__version__ = "1.0.0"

# All processes use the time zone rules of the pinned package `tzdata`. Python would prefer those of
# the operating system, whose version depends on the machine and its image. Set here, because every
# process imports this package before it reads a zone.
zoneinfo.reset_tzpath(())
zoneinfo.ZoneInfo.clear_cache()
