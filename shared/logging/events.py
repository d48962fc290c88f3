"""The complete list of log events, with one line on when each is written.

docs/logging.md shows the same list; tests/unit/test_vocabulary.py compares both and the code.
"""

EVENTS = {
    # Mailings
    "mailing.created": "A mailing was created.",
    "mailing.updated": "A mailing was changed; `changed` names the fields.",
    "mailing.deleted": "A mailing was deleted.",
    "mailing.started": "A mailing was started: by a caller (API), or its launch began (control).",
    "mailing.paused": "A mailing was paused, by a caller or by a rule (`reason`).",
    "mailing.budget_used_up": "A mailing was paused because the `budget` of it or of the policy "
    "has no room for its next message in the present `period` (in segments: `limit`, `spent`).",
    "mailing.braked": "A mailing was paused because the provider `refused` too many of its "
    "`answers`; `refusals` are the most frequent.",
    "mailing.resumed": "A mailing was resumed.",
    "mailing.cancelled": "A mailing was cancelled; its messages follow as `message.cancelled`.",
    "mailing.retry_requested": "A retry of the failed messages was requested; `messages`: how "
    "many.",
    "mailing.state_applied": "An end, a cancellation or a retry was applied to `messages` "
    "messages.",
    "mailing.rescheduled": "Other time zone rules apply: `batches` of its batches are due at "
    "another time.",
    "mailing.settled": "No work is left; the counts are final (except for late acceptances).",
    "launch.chunk": "A part of the audience was written: `recipients`, and the range of their "
    "messages from `first_message_id` to `last_message_id`.",
    "launch.refused": "Several mailings could not be launched together; each is launched alone.",
    # Batches and messages
    "batch.claimed": "A dispatcher claimed a batch; `taken_over` if another's lease on it had "
    "expired.",
    "batch.released": "A dispatcher released a batch: `why`, how many are `pending`, when it is "
    "due again (`due_at`; none if it is done).",
    "batch.lost": "A dispatcher's batch was taken over; it stops sending its messages.",
    "batch.zone_unknown": "A batch's `timezone` is not in this worker's data: its messages fail.",
    "message.unusable": "A message cannot be made of its client's data, and fails.",
    "batch.unrecordable": "Nothing of a batch can be recorded; another worker takes it over.",
    "message.unrecordable": "A message's outcome cannot be recorded; it is in doubt.",
    "record.refused": "Some outcomes cannot be recorded; the others are recorded without them.",
    "message.attempt": "One request to the provider and its result: `outcome`, `http_status`, "
    "`reason`, `latency_ms`.",
    "message.retry": "These messages were not accepted and will be retried at `due_at`.",
    "message.sent": "The provider accepted the message late, or after it was in doubt.",
    "message.failed": "These messages ended: rejected, or attempts exhausted (`reason`).",
    "message.expired": "These messages ended because the mailing ended (`reason`).",
    "message.cancelled": "These messages were cancelled (`reason`).",
    "message.in_doubt": "The worker that had these messages vanished: they may have been sent.",
    "message.reopened": "These failed messages are pending again, as a retry was requested.",
    "journal.recovered": "A dead worker's journal was read: `messages` of its acceptances were "
    "not recorded, and are now; `damaged` records could not be read.",
    "journal.recorded": "The messages of a batch that were recorded from a dead worker's journal.",
    "journal.foreign": "A journal of another database or version was left alone; it is deleted "
    "when it is a week old.",
    "journal.failed": "A journal could not be recorded because of an unexpected error; it stays.",
    "journal.unavailable": "A dispatcher has no journal (`error`): it sends without.",
    # The provider
    "provider.throttled": "The provider asked to wait; all workers do, for `seconds`.",
    "provider.token_replaced": "The provider's token was read again from its file; `expires_at`.",
    "provider.token_expiring": "The provider's token is due for renewal, or has expired: "
    "`expires_at`, `seconds` left. Logged once an hour.",
    "provider.token_unreadable": "The file of the provider's token cannot be used (`error`); the "
    "token read before is.",
    "provider.concurrency_reduced": "A worker lowers its number of requests in flight from "
    "`previous` to `limit`; `reason`: throttled, timeout, connection_refused, latency, open_files.",
    "breaker.opened": "The provider has problems (`reason`): nothing is sent for `wait` s.",
    "breaker.probing": "A few messages are sent to test whether the provider has recovered.",
    "breaker.closed": "The provider has recovered.",
    # Clients
    "client.created": "A client was created.",
    "client.updated": "A client was changed; `changed` names the fields.",
    "client.traces_erased": "The phones of these deleted clients were searched for in other tables "
    "and erased; for `completed` of them nothing can be written any more.",
    "client.deleted": "A client was deleted and the personal data erased.",
    # The policy
    "policy.updated": "The policy was changed; its `version`, and `changed` names the rules.",
    "sending.stopped": "The emergency stop: nothing is sent any more.",
    "sending.resumed": "The emergency stop is over.",
    # Opt-outs and tests
    "opt_outs.added": "Phones were opted out; `added` says how many are new.",
    "client.opted_out": "The phones of these clients were opted out, or were before.",
    "opt_outs.imported": "A file of opt-outs was imported.",
    "opt_out.removed": "A phone may be sent to again.",
    "test_send.created": "A test send to a few phones was requested.",
    "test_send.message": "The result of one message of a test send: `outcome`, `reason`.",
    "test_send.failed": "A test send failed with an unexpected error.",
    "client.imported": "These clients were created or updated (`change`) by an import "
    "(`import_id`).",
    "client.import_undone": "These clients were deleted or restored (`change`) by the undo of an "
    "import (`import_id`).",
    # Imports, exports, reports
    "import.checked": "A file of clients was checked: what its import would do.",
    "import.received": "A file of clients was uploaded; it waits to be merged.",
    "import.chunk": "A part of an import was merged; the counts of its rows.",
    "import.finished": "An import is complete; its counts.",
    "import.failed": "An import could not be merged any further (`error`); merged rows stay.",
    "import.undo_requested": "An import is to be undone; `keep_edited`: except for clients that "
    "were edited since.",
    "import.undo_refused": "An import cannot be undone; `reason` is the code of the error.",
    "import.undone": "An import is undone; how many clients were deleted, restored and kept.",
    "import.abandoned": "An import whose upload never completed was dropped.",
    "import.forgotten": "The record of an old import was deleted.",
    "export.broken": "An export was interrupted: the caller has an incomplete file.",
    "report.sent": "A daily report was sent.",
    "report.failed": "A daily report could not be sent; it will be retried.",
    "report.in_doubt": "A daily report may have been sent; it is not sent again.",
    "notification.sent": "An e-mail about an event (`kind`) of a mailing was sent.",
    "notification.failed": "An e-mail about an event could not be sent; it will be retried.",
    "notification.in_doubt": "An e-mail about an event may have been sent; it is not sent again.",
    "mail.failed": "An e-mail could not be made, by an unexpected error; it is tried again.",
    # The API
    "api.request": "A request was answered: `method`, `route`, `status`, `latency_ms`.",
    "api.unparsable": "Bytes that are no HTTP request were refused: `status`, `error_class`.",
    "api.replayed": "A repeated request got the first one's response (Idempotency-Key).",
    "api.defect": "A request failed with an unexpected error: `error`, `stack`.",
    "token.created": "An API token was created.",
    "token.revoked": "An API token was revoked.",
    "token.use_not_kept": "A token's time of last use could not be stored; the request continued.",
    "admin.signed_in": "A person signed in to the admin UI; their `role`.",
    "admin.signed_out": "A person signed out of the admin UI.",
    "admin.session_ended": "A session of the admin UI ended: `why`.",
    "admin.role_changed": "The provider gave a person who is signed in another `role`.",
    "admin.role_unchecked": "The provider could not be asked for a person's role, which is kept.",
    "admin.logout_token_refused": "A request to end sessions carried no valid logout token.",
    "admin.no_role": (
        "A person without a role tried to sign in: what `role_claim` held (`roles`), and which "
        "claims came."
    ),
    "admin.sign_in_refused": "The identity provider did not confirm a sign-in (`error`).",
    "admin.sign_in_provider_away": "The identity provider did not respond.",
    "admin.csrf_refused": "A form was rejected: expired, or from another site.",
    "admin.end_not_kept": "The end of a session could not be stored; its cookie is deleted.",
    # Infrastructure
    "process.started": "A process has started: its `version`, the version of its time zone rules "
    "(`time_zones`), and the servers it uses (`database`, `redis`, `provider`, `mail_server`).",
    "process.demo": "A process uses public demonstration secrets (`settings`): not for real "
    "clients.",
    "time_zones.applied": "The time zone rules have changed from `previous` to `version`; "
    "`batches` wait for another time.",
    "database.unavailable": "PostgreSQL did not respond (`error`); the statement is retried.",
    "database.refused": "PostgreSQL raised an unexpected error: `what`, `exception`.",
    "database.back": "PostgreSQL responds again, after `seconds`.",
    "redis.away": "Redis does not serve (`error`: unreachable, READONLY, OOM and others); a "
    "dispatcher continues without, other workers wait.",
    "redis.back": "Redis serves again, after `seconds`.",
    "redis.key_removed": "A key in Redis had the wrong type and was removed (`reason`).",
    "redis.entry_removed": "An entry of a queue or registry in Redis was no id and was removed.",
    "queue.unavailable": "A job could not be enqueued; the sweep will find the work.",
    "metrics.unavailable": "A source of metrics did not respond; /metrics reports that.",
    "job.unreadable": "A job in Redis could not be read (`error`) and was removed; the sweep will "
    "find the work.",
    "job.failed": "A job failed with an unexpected error: `error` with the traceback.",
    "sweep.failed": "A part of a sweep failed: `what`, `mailing_id`; the other parts continue.",
    "sweep.slow": "A sweep took longer than a second.",
    "retention.dropped": "The messages of old mailings were deleted, whole partitions at once.",
    "retention.postponed": "Old messages are still being read; they are deleted later.",
    "partition.made": "Partitions for further mailings were created.",
    "scheduler.registered": "A periodic job was missing and is registered again.",
    "scheduler.error": "The scheduler met an unexpected error (`error`); it continues.",
    "worker.few_files": "The limit of open files (`open_files`) does not permit "
    "PROVIDER_CONCURRENCY: at most `concurrency` requests are in flight.",
    "worker.no_files": "A worker cannot open a connection to the provider: it has used up "
    "`open_files`, or the machine has; it sends less, and no attempt is counted.",
    "worker.error": "A worker met an unexpected error outside of a job; it continues.",
    "worker.repair_failed": "Malformed data in Redis could not be looked for; it is tried again.",
    "worker.pulse_failed": "A worker could not write its heartbeat; it continues.",
    "worker.farewell_failed": "A worker could not record its end; it ends.",
}

# Prefix of events that libraries log: `event` is this and the logger's name, `message` the text.
LIBRARY_EVENT_PREFIX = "library."
