"""SQL conditions on batches and mailings, each defined once: due, leased, free, not yet ended."""

from shared.db.policy import STOPPED
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
# Of a mailing `m` with an audience limit nothing is sent before its whole audience is counted.
AUDIENCE_PERMITTED = "(m.audience_complete OR m.audience_limit IS NULL)"
# Messages of the running mailing `m` may be sent. PostgreSQL evaluates the emergency stop once for
# each statement.
MAY_SEND = f"""(m.status = 'running' AND {AUDIENCE_PERMITTED} AND {BEFORE_DISPATCH_END}
    AND NOT {STOPPED})"""
# The scheduled mailing `m` is to be launched. One whose end has passed is launched also during an
# emergency stop, so that its messages expire.
LAUNCH_DUE = f"""(greatest(m.start_at, m.launch_not_before) <= now()
    AND (m.end_at <= now() OR NOT {STOPPED}))"""
# The launch of the mailing `m` has stopped at its audience limit.
OVER_LIMIT = "(m.status = 'paused' AND m.pause_reason = 'audience_limit')"
