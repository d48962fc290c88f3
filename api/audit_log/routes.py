"""The REST route of the audit log."""

from typing import Any

from flask import Blueprint

from api.audit_log import service
from api.audit_log.schemas import AuditPage, AuditQuery, present_entry
from api.http.pagination import build_page
from api.openapi.operation import operation
from shared.domain.scopes import Scope

blueprint = Blueprint("audit_log", __name__)


@blueprint.get("/audit")
@operation(
    "audit",
    response=AuditPage,
    description="A page of the audit log.",
    query=AuditQuery,
    scope=Scope.ADMIN,
)
def list_audit(query: AuditQuery) -> dict[str, Any]:
    """List recorded changes

    The newest first. An entry must match all filters. A request that changes nothing is not
    recorded.
    """
    filters = service.AuditFilter(**query.model_dump(exclude={"cursor", "limit"}))
    found = service.list_entries(filters, before_id=query.cursor, limit=query.limit + 1)
    people = service.find_people(found)
    return build_page(
        found, query.limit, lambda entry: present_entry(entry, people), lambda entry: entry.id
    )
