"""The closed list of what the logs can say: every `event`, with one line on when it is written.

docs/logging.md shows the same list; a test holds the two and the code together.
"""

EVENTS = {
    # A mailing's life
    "mailing.created": "A mailing was made over the API.",
    "mailing.updated": "A mailing was changed; `changed` names the fields.",
    "mailing.deleted": "A mailing was deleted.",
    "mailing.started": "A mailing was started: by hand (API), or its launch began (control).",
    "mailing.paused": "A mailing was paused.",
    "mailing.resumed": "A mailing was resumed.",
    "mailing.cancelled": "A mailing was cancelled; its messages follow as `message.cancelled`.",
    "mailing.retry_requested": "The failed messages are to be tried again; `messages`: how many.",
    "mailing.state_applied": "An end, a cancellation or a retry reached `messages` messages.",
    "mailing.settled": "Nothing is left to do; the counts are final (but for late acceptances).",
    "launch.chunk": "A part of the audience was written: `recipients`, and the range of their "
    "messages from `first_message_id` to `last_message_id`.",
    # Batches and messages
    "batch.claimed": "A dispatcher took a batch in hand; `taken_over` if from one that vanished.",
    "batch.released": "A dispatcher gave a batch back: `why`, what is `pending`, when it is due "
    "again (`due_at`; none if it is done).",
    "batch.lost": "A dispatcher's lease was taken over; it stops handing the batch off.",
    "message.attempt": "One request to the provider and its answer: `outcome`, `http_status`, "
    "`reason`, `latency_ms`.",
    "message.retry": "These messages were not accepted and are tried again at `due_at`.",
    "message.sent": "Accepted by the provider after a surprise: late, or after a doubt.",
    "message.failed": "These messages ended: refused for good, or attempts exhausted (`reason`).",
    "message.expired": "These messages ended because the mailing's end came (`reason`).",
    "message.cancelled": "These messages were cancelled (`reason`).",
    "message.in_doubt": "Whoever had these messages vanished: they may have been sent.",
    "message.reopened": "These failed messages are pending again, because that was asked for.",
    # The provider
    "provider.throttled": "The provider asked to wait; the whole fleet does, for `seconds`.",
    "breaker.opened": "The provider is not well (`reason`): nothing is handed off for `wait` s.",
    "breaker.probing": "A few messages are let through to see whether the provider is back.",
    "breaker.closed": "The provider is back.",
    # Clients
    "client.created": "A client was made over the API.",
    "client.updated": "A client was changed; `changed` names the fields.",
    "client.deleted": "A client was deleted and the personal data erased.",
    # Opt-outs and tests
    "opt_outs.added": "Phones were opted out; `added` says how many are new.",
    "opt_outs.imported": "A file of opt-outs came in.",
    "opt_out.removed": "A phone may be written to again.",
    "test_send.created": "Somebody wants to see a text on a few phones.",
    "test_send.message": "What became of one message of a test: `outcome`, `reason`.",
    "test_send.failed": "A test failed for a reason nobody expected.",
    "client.imported": "These clients were made or changed (`change`) by an import (`import_id`).",
    # Imports, exports, reports
    "import.received": "A file of clients was read; it waits to be merged.",
    "import.chunk": "A part of an import was merged; the counts of its rows.",
    "import.finished": "An import is through; its counts.",
    "import.failed": "An import could not be merged any further (`error`); what was merged stays.",
    "import.abandoned": "An import whose file never arrived completely was dropped.",
    "import.forgotten": "An old import's record was removed.",
    "export.broken": "An export broke off in the middle: the caller has an incomplete file.",
    "report.sent": "A daily report was sent.",
    "report.failed": "A daily report could not be sent; it is tried again.",
    "report.in_doubt": "A daily report may have been sent; it is not sent a second time.",
    # The API
    "api.request": "A request was answered: `method`, `route`, `status`, `latency_ms`.",
    "api.replayed": "A repeated request got the first one's answer (Idempotency-Key).",
    "api.defect": "A request failed for a reason nobody expected: `error`, `stack`.",
    "token.created": "An API token was made.",
    "token.revoked": "An API token was revoked.",
    "token.use_not_kept": "When a token was last used could not be kept; the request went on.",
    "admin.signed_in": "Somebody signed in to the admin UI; their `role`.",
    "admin.signed_out": "Somebody signed out of the admin UI.",
    "admin.no_role": "Somebody who has no role here tried to sign in.",
    "admin.sign_in_refused": "The identity provider did not confirm a sign-in (`error`).",
    "admin.sign_in_provider_away": "The identity provider did not answer.",
    "admin.csrf_refused": "A form was refused: too old, or from elsewhere.",
    "admin.end_not_kept": "That a session ended could not be kept; its cookie is gone.",
    # The machinery
    "database.unavailable": "PostgreSQL did not answer (`error`); it is asked again.",
    "database.refused": "PostgreSQL refused what nobody expected it to: `what`, `exception`.",
    "redis.away": "Redis does not answer a dispatcher; it goes on without.",
    "redis.back": "Redis answers again.",
    "queue.unavailable": "A worker could not be woken; the sweep will.",
    "metrics.unavailable": "A source of figures did not answer; /metrics says so.",
    "job.failed": "A job failed for a reason nobody expected: `error` with the traceback.",
    "sweep.slow": "A sweep took longer than a second.",
    "retention.dropped": "The messages of old mailings are gone, whole partitions at once.",
    "retention.postponed": "Old messages are still being read; they are dropped later.",
    "partition.made": "Room was made for the mailings to come.",
    "scheduler.registered": "A periodic job was missing and is registered again.",
    "worker.pulse_failed": "A worker could not say that it lives; it goes on.",
    "worker.farewell_failed": "A worker could not say that it ends; it ends.",
}

# Libraries' own lines: `event` is this and the library's logger, `message` what it says.
LIBRARY_EVENT_PREFIX = "library."
