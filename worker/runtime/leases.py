"""Define when a batch is free to be claimed, for every query that has to judge it."""

# The parameter `lease` is the length of a lease in seconds. A lease that ran out while PostgreSQL
# was away could not be renewed, so after PostgreSQL's start its holder gets one lease length to
# report before another worker may take the batch over.
FREE = """(leased_until IS NULL OR (leased_until < now()
    AND pg_postmaster_start_time() < now() - %(lease)s * interval '1 second'))"""
