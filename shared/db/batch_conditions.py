"""SQL conditions on batches and mailings, each defined once: due, leased, free, not yet ended."""

from shared.db.pulse import STEADY

# Its messages may be sent now, unless a worker holds it.
DUE = "due_at <= now()"
# A worker holds it. Null if it has no lease.
LEASED = "leased_until > now()"
# No worker holds it, so it may be claimed, expired or cancelled. The parameter `lease` is the
# length of a lease in seconds. A lease that ran out during an outage could not be renewed, so after
# the outage its holder gets one lease length to report before another worker may take the batch.
FREE = f"(leased_until IS NULL OR (NOT {LEASED} AND {STEADY}))"
# Messages of the mailing `m` may still be dispatched. The parameter `end_margin` is END_MARGIN.
BEFORE_DISPATCH_END = "m.end_at > now() + %(end_margin)s * interval '1 second'"
