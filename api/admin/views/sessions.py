"""Open sessions of the admin UI, for administrators: who is signed in, and ending that."""

from flask import Blueprint, flash, g, redirect, render_template, request, url_for
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.presenters.plurals import ngettext
from api.errors import NotFound
from api.people import sessions
from api.people.open_sessions import list_sessions_used_last
from shared.domain.scopes import Scope

blueprint = Blueprint("sessions", __name__)

MAX_LISTED = 200


@blueprint.get("/sessions")
@require_scope(Scope.ADMIN)
def list_sessions() -> str:
    found = list_sessions_used_last(MAX_LISTED)
    return render_template("admin/sessions.html", sessions=found, own=g.person.session_id)


@blueprint.post("/sessions/<id:session_id>/end")
@require_scope(Scope.ADMIN)
def end_session(session_id: int) -> Response:
    try:
        if request.form.get("all"):
            count = sessions.end_sessions_of_person(session_id, "admin", current_actor())
        else:
            sessions.end_session(session_id, "admin", current_actor())
            count = 1
    except NotFound:
        flash(_("This session had ended already."), "warning")
    else:
        flash(
            ngettext("%(num)s session was ended.", "%(num)s sessions were ended.", count), "success"
        )
    return redirect(url_for(".list_sessions"), 303)
