"""The schema of record: importing this module defines every table in one metadata.

The tables are defined beside each other by subject (`models` and the other `*_models`, `opt_outs`).
Migrations must produce exactly this schema; tests/integration/shared/test_migrations.py compares
the two.
"""

from shared.db import (
    audit_models,
    auth_models,
    brake_models,
    budget_models,
    client_words,
    erasure_models,
    fleet_models,
    import_models,
    minute_models,
    models,
    opt_outs,
    partition_models,
    people_models,
    policy_models,
    report_models,
)
from shared.db.base import Base

TABLE_MODULES = (
    audit_models,
    auth_models,
    client_words,
    brake_models,
    budget_models,
    erasure_models,
    fleet_models,
    import_models,
    minute_models,
    models,
    opt_outs,
    partition_models,
    people_models,
    policy_models,
    report_models,
)
metadata = Base.metadata
