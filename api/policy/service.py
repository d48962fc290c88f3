"""Read and change the policy: each change is a new version, and earlier ones are its history."""

from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy import func, select

from api.actor import Actor
from api.audit_log import service as audit_log
from api.budgets import set_budget
from api.cursors import Page
from api.db import db
from api.errors import VersionMismatch
from api.policy.schemas import PolicyRules, present_version
from api.schemas.limits import Limits, store_limit
from api.sending_rules import check_budget, require_new_workers
from shared.db.budgets import POLICY_BUDGET
from shared.db.models import Mailing
from shared.db.policy_models import PolicyVersion

log = structlog.get_logger()

RULES = ("max_audience", "stop_when", "budget", "launch_delay", "notify")
# Rules that a worker of an older version would not follow.
RULES_OF_WORKERS = ("max_audience", "stop_when", "budget", "launch_delay")


def find_followed_limits(mailing: Mailing) -> Limits:
    """Return the policy's limits that a mailing follows: of its launch, but the present budget."""
    present = find_policy()
    if mailing.started_at is None:
        return Limits.of(present)
    launched = db.session.get(PolicyVersion, mailing.policy_version or 0)
    followed = Limits(None, None, None) if launched is None else Limits.of(launched)
    return followed._replace(budget=present.budget)


def find_policy() -> PolicyVersion:
    """Return the policy in force."""
    newest = select(PolicyVersion).order_by(PolicyVersion.version.desc()).limit(1)
    return db.session.scalars(newest).one()


def list_versions(page: Page) -> Sequence[PolicyVersion]:
    """Return a page of the policy's versions, by number."""
    return db.session.scalars(page.bound(select(PolicyVersion), PolicyVersion.version)).all()


def change_policy(
    rules: PolicyRules, actor: Actor, versions: Collection[int] | None
) -> PolicyVersion:
    """Replace the policy, which must have one of the given versions (None: any).

    Raise VersionMismatch otherwise, InvalidFields for a budget without a price, Conflict while
    workers run that would not follow a rule. The same rules again make no version.
    """
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtext("policy"))))
    current = find_policy()
    if versions is not None and current.version not in versions:
        raise VersionMismatch(current.version, current.updated_by, current.updated_at)
    values = _stored_rules(rules)
    changed = [name for name in RULES if values[name] != getattr(current, name)]
    if not changed:
        return current
    check_budget(rules.budget)
    if any(values[name] for name in RULES_OF_WORKERS if name in changed):
        require_new_workers()
    policy = PolicyVersion(version=current.version + 1, updated_by=actor.name, **values)
    db.session.add(policy)
    db.session.flush()
    if "budget" in changed:
        set_budget(POLICY_BUDGET, policy.budget)
    changes = audit_log.diff_fields(_audited_fields(current), _audited_fields(policy))
    audit_log.record_change(actor, "updated", "policy", policy.version, changes)
    db.session.commit()
    log.info("policy.updated", version=policy.version, changed=changed)
    return policy


def _stored_rules(rules: PolicyRules) -> dict[str, Any]:
    values = {name: getattr(rules, name) for name in RULES}
    return values | {name: store_limit(values[name]) for name in ("stop_when", "budget")}


def _audited_fields(policy: PolicyVersion) -> dict[str, Any]:
    """Return what the audit log keeps: of the addresses, only their number."""
    presented = present_version(policy)
    return {name: presented[name] for name in RULES} | {"notify": len(policy.notify)}
