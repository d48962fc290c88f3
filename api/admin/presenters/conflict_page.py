"""The page of an edit conflict: both versions side by side, and who changed what when."""

from collections.abc import Mapping, Sequence

from flask import flash, redirect, render_template, request
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from api.admin.forms.edit_conflict import ComparedField, FormBasis, compare_fields, same_values
from api.audit_log import service as audit_log
from api.audit_log.service import AuditFilter
from shared.db.models import Client, Mailing
from shared.db.policy_models import PolicyVersion

MAX_SHOWN_EDITS = 10


def render_conflict(
    compared: Sequence[ComparedField],
    mine: Mapping[str, str],
    theirs: Mapping[str, str],
    entity: str,
    edited: Client | Mailing | PolicyVersion,
    there: str,
    *,
    unpicked: bool = False,
) -> Response | tuple[str, int]:
    """Render the choice between the submitted fields and those of the present version.

    Where they are equal, nothing is left to choose. The page's form states the present version, so
    that a third change is noticed as well, and keeps the basis of the person's own form. `there` is
    the address of the page that shows the object.
    """
    if same_values(compared, mine, theirs):
        flash(_("The changes are saved."), "success")
        return redirect(there, 303)
    basis = FormBasis.from_form(request.form)
    edits = min(max(1, edited.version - basis.version), MAX_SHOWN_EDITS)
    # There is one policy, and each entry about it names a version.
    entity_id = None if isinstance(edited, PolicyVersion) else edited.id
    entries = audit_log.list_entries(
        AuditFilter(entity, entity_id, action="updated", since=basis.changed_at),
        before_id=None,
        limit=edits,
    )
    page = render_template(
        "admin/edit_conflict.html",
        compared=compare_fields(compared, mine, theirs, basis, request.form),
        mine=mine,
        basis=basis._replace(version=edited.version),
        entries=entries,
        people=audit_log.find_people(entries),
        changed_at=edited.updated_at,
        action=request.path,
        there=there,
        unpicked=unpicked,
    )
    return page, 409
