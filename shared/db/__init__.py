"""The schema of record and the SQL that the API and the workers share.

Tables: `models`, `audit_models`, `auth_models`, `import_models`, `report_models`, `opt_outs`, all
together in `metadata`. Rules in SQL: `audience`, `batch_conditions`, `mailing_counts`. Changes:
`status_changes`, `minute_counts`, `partitions`, logged by `on_commit`. Help with psycopg2: `rows`,
`prepared_statements`. `schema` waits for the migrations.
"""
