"""What each log event is about: the ids that its lines must carry, so that they are found."""

from collections.abc import Mapping
from typing import Any

from shared.logging.events import EVENTS

_MESSAGE = frozenset({"mailing", "message", "client"})
_MAILING = frozenset({"mailing"})
_CLIENT = frozenset({"client"})
_BY_PREFIX = {
    **dict.fromkeys(("mailing.", "batch.", "notification."), _MAILING),
    "message.": _MESSAGE,
    "client.": _CLIENT,
}

_BY_NAME: dict[str, frozenset[str]] = {
    "launch.chunk": frozenset({"mailing", "message"}),
    "launch.refused": _MAILING,
    "record.refused": _MAILING,
    "journal.recorded": _MESSAGE,
    "opt_outs.added": _CLIENT,
    "opt_out.removed": _CLIENT,
    "test_send.created": _CLIENT,
    "test_send.message": frozenset({"message", "client"}),
    "test_send.failed": _CLIENT,
}

# Events about no client, mailing or message, or about many that other lines name; and why.
ABOUT_NONE: dict[str, tuple[str, ...]] = {
    "client.opted_out names the clients": ("opt_outs.imported",),
    "client.imported names the clients": (
        *("import.received", "import.chunk", "import.finished", "import.failed"),
        *("import.abandoned", "import.forgotten", "import.checked"),
    ),
    "client.import_undone names the clients": (
        *("import.undo_requested", "import.undo_refused", "import.undone"),
    ),
    "journal.recorded names the messages": ("journal.recovered",),
    "a file as a whole": ("journal.foreign", "journal.failed", "journal.unavailable"),
    "all mailings": (
        *("provider.throttled", "provider.token_replaced", "provider.token_expiring"),
        *("provider.token_unreadable", "provider.concurrency_reduced"),
        *("breaker.opened", "breaker.probing", "breaker.closed"),
        *("report.sent", "report.failed", "report.in_doubt", "time_zones.applied"),
        "mail.failed",
        *("retention.dropped", "retention.postponed", "partition.made", "sweep.slow"),
        *("policy.updated", "sending.stopped", "sending.resumed"),
    ),
    "one request, with the ids of its address": (
        *("api.request", "api.unparsable", "api.replayed", "api.defect", "export.broken"),
    ),
    "tokens and people who sign in": (
        *("token.created", "token.revoked", "token.use_not_kept"),
        *("admin.signed_in", "admin.signed_out", "admin.session_ended", "admin.role_changed"),
        *("admin.role_unchecked", "admin.logout_token_refused", "admin.no_role"),
        *("admin.sign_in_refused", "admin.sign_in_provider_away", "admin.csrf_refused"),
        "admin.end_not_kept",
    ),
    "a process, with ids if its work is about one mailing": (
        *("process.started", "process.demo", "database.unavailable", "database.refused"),
        *("database.back", "redis.away", "redis.back", "redis.key_removed", "redis.entry_removed"),
        *("queue.unavailable", "metrics.unavailable", "job.unreadable", "job.failed"),
        *("sweep.failed", "scheduler.registered", "scheduler.error", "worker.few_files"),
        *("worker.no_files", "worker.error", "worker.repair_failed", "worker.pulse_failed"),
        "worker.farewell_failed",
    ),
}


def required_ids(event: str) -> frozenset[str]:
    """Return of what a line of this event must carry ids."""
    by_prefix = _BY_PREFIX.get(event[: event.find(".") + 1], frozenset())
    return by_prefix | _BY_NAME.get(event, frozenset())


SUBJECTS = {event: kinds for event in EVENTS if (kinds := required_ids(event))}


def ids_in(names: Mapping[str, Any] | set[str]) -> set[str]:
    """Return of what a line with these fields carries ids."""
    kinds = ("mailing", "message", "client")
    return {
        kind
        for kind in kinds
        if not {f"{kind}_id", f"{kind}_ids", f"first_{kind}_id"}.isdisjoint(names)
    }
