"""Pages of opt-outs: find, add, remove and export phones that must never be sent anything."""

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from api.actor import current_actor
from api.admin.forms.field_errors import field_text
from api.admin.forms.text_fields import phone_expected, read_phone, read_phones
from api.admin.pagination import PAGE_SIZE, requested_start, split_page
from api.admin.presenters.plurals import ngettext
from api.cursors import Page
from api.errors import NotFound
from api.http.csv_response import stream_csv
from api.opt_outs import service
from api.opt_outs.schemas import NewOptOuts

blueprint = Blueprint("opt_outs", __name__)


@blueprint.get("/opt-outs")
def list_opt_outs() -> str:
    return _render_page()


@blueprint.post("/opt-outs")
def add_opt_outs() -> BaseResponse | tuple[str, int]:
    """Add the phones of a text, one to a line."""
    given = field_text(request.form, "phones")
    phones, problem = read_phones(given)
    if problem or not phones:
        return _render_page(given, problem or phone_expected()), 422
    source = field_text(request.form, "source")[: service.MAX_SOURCE_LENGTH] or "admin"
    try:
        body = NewOptOuts.model_validate({"phones": phones, "source": source})
    except ValidationError:
        message = _("Enter at most 1,000 phones at a time, and a source in plain words.")
        return _render_page(given, message), 422
    added = service.add_opt_outs(map(int, body.phones), body.source, current_actor()).added
    flash(ngettext("%(num)s phone is added.", "%(num)s phones are added.", added), "success")
    return redirect(url_for(".list_opt_outs"), 303)


@blueprint.post("/opt-outs/<id:phone>/remove")
def remove_opt_out(phone: int) -> BaseResponse:
    try:
        service.remove_opt_out(phone, current_actor())
    except NotFound:
        flash(_("This phone was removed already."), "warning")
    else:
        flash(_("Mailings can send to the phone again."), "success")
    return redirect(url_for(".list_opt_outs"), 303)


@blueprint.get("/opt-outs.csv")
def export_opt_outs() -> Response:
    pages = service.iter_opt_out_pages()
    return stream_csv("opt-outs.csv", lambda: (service.EXPORT_COLUMNS, pages), excel=True)


def _render_page(given: str = "", fault: str | None = None) -> str:
    """Render the list and the form, with what was submitted and the error in it."""
    wanted, after = field_text(request.args, "phone"), requested_start()
    phone = read_phone(wanted)
    problem = phone_expected() if wanted and phone is None else None
    number = int(phone) if phone else None
    limit = 0 if problem else PAGE_SIZE + 1
    found = service.list_opt_outs(Page(after, limit), number)
    shown, last = split_page(found)
    return render_template(
        "admin/opt_outs.html",
        opt_outs=shown,
        following=last and last.phone,
        wanted=wanted,
        problem=problem,
        given=given,
        fault=fault,
        paged=bool(after),
    )
