"""SQL conditions on a row of `batches`, each defined once: due, leased and free."""

from shared.db.pulse import STEADY

# Its messages may be sent now, unless a worker holds it.
DUE = "due_at <= now()"
# A worker holds it. Null if it has no lease.
LEASED = "leased_until > now()"
# No worker holds it, so it may be claimed, expired or cancelled. The parameter `lease` is the
# length of a lease in seconds. A lease that ran out during an outage could not be renewed, so after
# the outage its holder gets one lease length to report before another worker may take the batch.
FREE = f"(leased_until IS NULL OR (NOT {LEASED} AND {STEADY}))"
