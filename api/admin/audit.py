"""The audit log, for administrators: who did what, when, found by person and by thing."""

from flask import Blueprint, render_template, request
from flask_babel import lazy_gettext
from sqlalchemy import select

from api.admin.faults import text_of
from api.admin.security import needs
from api.database import db
from shared.scopes import Scope
from shared.trail import AuditEntry

audit = Blueprint("audit", __name__)

PAGE = 50
ENTITIES = {
    "mailing": lazy_gettext("Mailing"),
    "client": lazy_gettext("Client"),
    "token": lazy_gettext("API token"),
    "opt_out": lazy_gettext("Opt-out"),
    "import": lazy_gettext("Import"),
    "test_send": lazy_gettext("Test send"),
    "report": lazy_gettext("Daily report"),
    "person": lazy_gettext("Sign-in"),
}


@audit.get("/audit")
@needs(Scope.ADMIN)
def index() -> str:
    wanted = {name: text_of(request.args, name) for name in ("actor", "entity", "entity_id")}
    before = request.args.get("before", "")
    found = select(AuditEntry)
    if wanted["actor"]:
        found = found.where(AuditEntry.actor == wanted["actor"])
    if wanted["entity"]:
        found = found.where(AuditEntry.entity == wanted["entity"])
    if wanted["entity_id"].isdecimal() and len(wanted["entity_id"]) < 19:
        found = found.where(AuditEntry.entity_id == int(wanted["entity_id"]))
    if before.isdecimal() and len(before) < 19:
        found = found.where(AuditEntry.id < int(before))
    listed = db.session.scalars(found.order_by(AuditEntry.id.desc()).limit(PAGE + 1)).all()
    return render_template(
        "admin/audit.html",
        entries=listed[:PAGE],
        following=listed[PAGE - 1].id if len(listed) > PAGE else None,
        wanted=wanted,
        entities=ENTITIES,
        paged=bool(before),
    )
