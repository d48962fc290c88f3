"""Opt-outs: the phones that are never written to, found, added and removed."""

from inspect import unwrap

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_babel import ngettext
from pydantic import ValidationError
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from api.admin.forms.field_errors import text_of
from api.admin.forms.text_fields import phone_expected, read_phone, read_phones
from api.db import db
from api.errors import NotFound
from api.opt_outs.routes import add_opt_outs, export_opt_outs, remove_opt_out
from api.opt_outs.schemas import NewOptOuts
from api.schemas.csv_query import CsvQuery
from shared.db.opt_outs import OptOut

blueprint = Blueprint("opt_outs", __name__)

add = unwrap(add_opt_outs)
remove = unwrap(remove_opt_out)
export_all = unwrap(export_opt_outs)
PAGE = 25


@blueprint.get("/opt-outs")
def index() -> str:
    return _page()


@blueprint.post("/opt-outs")
def make() -> BaseResponse | tuple[str, int]:
    """Add the phones of a text, one to a line."""
    given = text_of(request.form, "phones")
    phones, problem = read_phones(given)
    if problem or not phones:
        return _page(given, problem or phone_expected()), 422
    try:
        body = NewOptOuts.model_validate(
            {
                "phones": phones,
                "source": text_of(request.form, "source")[:64] or "admin",
            }
        )
    except ValidationError:
        return _page(
            given, _("Give at most 1,000 phones at a time, and a source in plain words.")
        ), 422
    done = add(body)
    message = ngettext("%(num)s phone is added.", "%(num)s phones are added.", done["added"])
    flash(message, "success")
    return redirect(url_for("admin.opt_outs.index"), 303)


@blueprint.post("/opt-outs/<id:phone>/remove")
def end(phone: int) -> BaseResponse:
    try:
        remove(phone)
    except NotFound:
        flash(_("This phone was removed already."), "warning")
    else:
        flash(_("The phone may be written to again."), "success")
    return redirect(url_for("admin.opt_outs.index"), 303)


@blueprint.get("/opt-outs.csv")
def export() -> Response:
    answer: Response = export_all(CsvQuery.model_validate({"excel": "true"}))
    return answer


def _page(given: str = "", fault: str | None = None) -> str:
    wanted = text_of(request.args, "phone")
    after = request.args.get("after", "")
    found = select(OptOut)
    problem = None
    if wanted:
        phone = read_phone(wanted)
        if phone is None:
            problem = phone_expected()
        found = found.where(OptOut.phone == int(phone or 0))
    if after.isdecimal() and len(after) < 19:
        found = found.where(OptOut.phone > int(after))
    listed = db.session.scalars(found.order_by(OptOut.phone).limit(PAGE + 1)).all()
    return render_template(
        "admin/opt_outs.html",
        opt_outs=listed[:PAGE],
        following=listed[PAGE - 1].phone if len(listed) > PAGE else None,
        wanted=wanted,
        problem=problem,
        given=given,
        fault=fault,
        paged=bool(after),
    )
