"""REST routes of the policy: read, replace, history, and the emergency stop."""

from typing import Any

from flask import Blueprint

from api.actor import current_actor
from api.budgets import find_use
from api.http.etags import VersionedResponse, format_etag, require_if_match
from api.http.pagination import build_page
from api.openapi.operation import operation
from api.policy import emergency_stop, service
from api.policy.schemas import (
    PolicyAnswer,
    PolicyRules,
    PolicyVersionPage,
    StopAnswer,
    present_policy,
    present_stop,
    present_version,
)
from api.schemas.base import ListQuery
from api.schemas.budget_use import BudgetUseAnswer, present_budget_use
from shared.db.budgets import POLICY_BUDGET
from shared.db.policy_models import PolicyVersion
from shared.domain.scopes import Scope

blueprint = Blueprint("policy", __name__)


@blueprint.get("/policy")
@operation("policy", response=PolicyAnswer, description="The policy in force.", versioned=True)
def get_policy() -> VersionedResponse:
    """Get the policy

    Its rules limit all mailings. On a fresh installation all of them are off.
    """
    return _respond(service.find_policy())


@blueprint.put("/policy")
@operation(
    "policy",
    response=PolicyAnswer,
    description="The policy in force.",
    body=PolicyRules,
    problems=(409, 428),
    scope=Scope.ADMIN,
    versioned=True,
)
def change_policy(body: PolicyRules) -> VersionedResponse:
    """Replace the policy

    A rule that is left out is off. The budget applies to running mailings at once; the other rules
    apply to mailings that are not launched yet, and the launch delay to those created from now on.
    What `GET` has returned can be sent back with changes.
    """
    return _respond(service.change_policy(body, current_actor(), require_if_match()))


@blueprint.get("/policy/versions")
@operation(
    "policy",
    response=PolicyVersionPage,
    description="A page of the policy's versions.",
    query=ListQuery,
)
def list_versions(query: ListQuery) -> dict[str, Any]:
    """List the versions of the policy

    By number, the oldest first; with `order=desc` the newest.
    """
    found = service.list_versions(query.page())
    return build_page(found, query.limit, present_version, lambda policy: policy.version)


@blueprint.get("/policy/budget")
@operation("policy", response=BudgetUseAnswer, description="What is used up.")
def get_policy_budget() -> dict[str, Any]:
    """Get what is used up of the policy's budget

    Of the present day and month, by the time zone of the daily report, in SMS segments.
    """
    return present_budget_use(find_use(POLICY_BUDGET))


@blueprint.post("/policy/stop")
@operation(
    "policy",
    response=StopAnswer,
    description="All sending is stopped.",
    scope=Scope.ADMIN,
)
def stop_sending() -> dict[str, Any]:
    """Stop all sending

    Within a second no message leaves any more, of any mailing; test sends are refused, and no
    mailing is launched. A request that is in flight is awaited. No mailing's status changes.
    """
    stop = emergency_stop.stop_sending(current_actor())
    return present_stop(stop, emergency_stop.count_outdated_workers())


@blueprint.post("/policy/resume")
@operation(
    "policy",
    response=StopAnswer,
    description="Messages are sent again.",
    scope=Scope.ADMIN,
)
def resume_sending() -> dict[str, Any]:
    """Resume sending

    Every mailing goes on where it was. Messages of mailings that have ended meanwhile expire.
    """
    stop = emergency_stop.resume_sending(current_actor())
    return present_stop(stop, emergency_stop.count_outdated_workers())


def _respond(policy: PolicyVersion) -> VersionedResponse:
    answer = present_policy(policy, emergency_stop.find_stop())
    return answer, 200, {"ETag": format_etag(policy.version)}
