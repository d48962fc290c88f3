"""SQL conditions on a row of `batches`, each defined once: due, leased and free."""

# Its messages may be sent now, unless a worker holds it.
DUE = "due_at <= now()"
# A worker holds it. Null if it has no lease.
LEASED = "leased_until > now()"
# No worker holds it, so it may be claimed. The parameter `lease` is the length of a lease in
# seconds. A lease that ran out while PostgreSQL was away could not be renewed, so after
# PostgreSQL's start its holder gets one lease length to report before another worker may take the
# batch over.
FREE = f"""(leased_until IS NULL OR (NOT {LEASED}
    AND pg_postmaster_start_time() < now() - %(lease)s * interval '1 second'))"""
