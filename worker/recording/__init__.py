"""Change the states of messages and batches: workers' reports, and states of whole mailings.

Reading order: `state_machine` (the rules), `batch_report` (what is recorded), `record` and
`transaction` (how), `queries` (its SQL), `mailing_state` (expiry, cancellation, retry, settling).
"""
