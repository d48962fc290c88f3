"""HTTP concerns shared by all resources: problems, parsing, paging, idempotency, bearer tokens."""
