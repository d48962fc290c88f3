"""The page of the policy, its history, and the emergency stop."""

from typing import Any

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.edit_conflict import FormBasis, merge_fields
from api.admin.forms.field_errors import translate_error
from api.admin.forms.policy_form import (
    POLICY_FIELDS,
    field_of_error,
    fields_from_policy,
    parse_policy,
    read_policy_form,
)
from api.admin.presenters.conflict_page import render_conflict
from api.admin.presenters.policy_effects import describe_effect
from api.admin.presenters.policy_rules import describe_rules, describe_undelivered
from api.audit_log.service import find_people_by_name
from api.budgets import draft_use, find_use
from api.cursors import Page
from api.db import db, session_cursor
from api.errors import Conflict, InvalidFields, VersionMismatch
from api.policy import emergency_stop, service
from api.policy.effects import find_effects
from api.policy.schemas import PolicyRules
from api.schemas.limits import Limits
from api.sending_rules import check_budget
from shared.db.budgets import POLICY_BUDGET
from shared.db.policy_models import PolicyVersion
from shared.db.undelivered_mails import count_undelivered_mails
from shared.domain.scopes import Scope

blueprint = Blueprint("policy", __name__)

SHOWN_VERSIONS = 20


@blueprint.get("/policy")
def show_policy() -> str:
    policy = service.find_policy()
    return _render_page(fields_from_policy(policy), basis=_basis_of(policy))


@blueprint.post("/policy")
@require_scope(Scope.ADMIN)
def change_policy() -> Response | str | tuple[str, int]:
    """Preview or save the form; where the policy was changed meanwhile, let the person choose."""
    policy = service.find_policy()
    fields = read_policy_form(request.form)
    basis = FormBasis.from_form(request.form)
    resolve = request.form.get("resolve")
    if basis.version != policy.version:
        return _render_conflict(policy, fields)
    if resolve in ("merge", "edit"):
        merged = merge_fields(POLICY_FIELDS, fields, fields_from_policy(policy), request.form)
        if merged is None:
            return _render_conflict(policy, fields, unpicked=True)
        if resolve == "edit":
            return _render_page(merged, basis=_basis_of(policy))
        fields = merged
    try:
        rules = PolicyRules.model_validate(parse_policy(fields))
        if request.form.get("preview"):
            check_budget(rules.budget)
            return _render_page(fields, basis=basis, previewed=rules)
        service.change_policy(rules, current_actor(), {basis.version})
    except ValidationError as error:
        return _render_page(fields, _errors_by_field(error), basis), 422
    except InvalidFields as error:
        found = {
            field_of_error(tuple(str(each.pointer).strip("/").split("/"))): translate_error(
                each.code, each.detail
            )
            for each in error.field_errors
        }
        return _render_page(fields, found, basis), 422
    except VersionMismatch:
        db.session.rollback()
        return _render_conflict(service.find_policy(), fields)
    except Conflict:
        db.session.rollback()
        problem = _(
            "Workers of an older version are running, which would not follow these rules. Nothing "
            "was saved: update all workers first."
        )
        return _render_page(fields, basis=basis, problem=problem), 409
    flash(_("The policy is saved."), "success")
    return redirect(url_for(".show_policy"), 303)


@blueprint.get("/policy/stop")
@require_scope(Scope.ADMIN)
def confirm_stop() -> str:
    """Show the confirmation on a page of its own, for browsers without JavaScript."""
    return render_template("admin/stop.html", action="stop")


@blueprint.post("/policy/stop")
@require_scope(Scope.ADMIN)
def stop_sending() -> Response:
    emergency_stop.stop_sending(current_actor())
    outdated = emergency_stop.count_outdated_workers()
    if outdated:
        flash(
            _(
                "All sending is stopped, but %(n)s workers of an older version do not follow the "
                "stop: end them.",
                n=outdated,
            ),
            "danger",
        )
    return redirect(url_for("admin.dashboard"), 303)


@blueprint.get("/policy/resume")
@require_scope(Scope.ADMIN)
def confirm_resume() -> str:
    return render_template("admin/stop.html", action="resume")


@blueprint.post("/policy/resume")
@require_scope(Scope.ADMIN)
def resume_sending() -> Response:
    emergency_stop.resume_sending(current_actor())
    flash(_("Messages are sent again."), "success")
    return redirect(url_for("admin.dashboard"), 303)


def _errors_by_field(error: ValidationError) -> dict[str, str]:
    errors: dict[str, str] = {}
    for each in error.errors(include_url=False, include_context=False):
        name = field_of_error(each["loc"])
        errors.setdefault(name, translate_error(each["type"], str(each["msg"])))
    return errors


def _basis_of(policy: PolicyVersion) -> FormBasis:
    fields = fields_from_policy(policy)
    return FormBasis.of_version(POLICY_FIELDS, fields, policy.version, policy.updated_at)


def _render_conflict(
    policy: PolicyVersion, fields: dict[str, str], *, unpicked: bool = False
) -> Response | tuple[str, int]:
    theirs, there = fields_from_policy(policy), url_for(".show_policy")
    return render_conflict(
        POLICY_FIELDS, fields, theirs, "policy", policy, there, unpicked=unpicked
    )


def _count_outdated(policy: PolicyVersion) -> int:
    """Return how many workers run that do not follow the rules, as after a rollback."""
    is_followed = any(getattr(policy, name) for name in service.RULES_OF_WORKERS)
    return (emergency_stop.count_outdated_workers() or 0) if is_followed else 0


def _render_page(
    fields: dict[str, str],
    errors: dict[str, str] | None = None,
    basis: FormBasis | None = None,
    problem: str = "",
    previewed: PolicyRules | None = None,
) -> str:
    versions: list[Any] = list(service.list_versions(Page(0, SHOWN_VERSIONS + 1, descending=True)))
    current = versions[0]
    if previewed is None:
        limits, use = Limits.of(current), find_use(POLICY_BUDGET)
    else:
        limits = Limits.from_body(previewed.max_audience, previewed.stop_when, previewed.budget)
        use = draft_use(POLICY_BUDGET, limits.budget)
    return render_template(
        "admin/policy.html",
        fields=fields,
        errors=errors or {},
        basis=basis,
        problem=problem,
        previewed=previewed is not None,
        current=current,
        budget_use=use,
        outdated_workers=_count_outdated(current),
        undelivered=describe_undelivered(count_undelivered_mails(session_cursor())),
        sends_mails=bool(current_app.extensions["report_settings"].smtp_url),
        segment_price=current_app.config["SEGMENT_PRICE"],
        effects=[*map(describe_effect, find_effects(limits, use))],
        versions=[(each, [*describe_rules(each)]) for each in versions[:SHOWN_VERSIONS]],
        people=find_people_by_name([each.updated_by for each in versions]),
    )
