"""The page with the form of a mailing: its fields, choices, and the key that creates it once."""

import re
import secrets

from flask import render_template, request
from sqlalchemy import text

from api.admin.forms.compared_fields import MAILING_FIELDS
from api.admin.forms.edit_conflict import FormBasis
from api.admin.forms.mailing_form import RARE_FIELDS, fields_from_mailing
from api.admin.forms.text_fields import read_id, split_list
from api.admin.presenters.policy_rules import describe_mailing_rules
from api.admin.presenters.recipient_choices import present_choices
from api.admin.presenters.test_send import TestOutcome
from api.admin.presenters.text_cost import count_segments
from api.db import fetch_all
from api.mailings.attribute_names import list_attribute_names
from api.policy.service import find_policy
from api.schemas.limits import Limits
from shared.db.models import Mailing

KEY = re.compile(r"[\w-]{10,64}", re.ASCII)
# The form's field that shows the errors of a schema's field.
SHOWN_AT = {"start": "window", "end": "window", "from": "window", "to": "window"}
# More mailings than can be excluded; further ones are not shown as choices.
MAX_CHOSEN = 50
# Mailings whose recipients can be excluded: the chosen ones first, then the newest with recipients.
EXCLUDABLE = text("""
SELECT id, name, text, started_at, audience FROM mailings
WHERE deleted_at IS NULL AND (audience > 0 OR id = ANY (CAST(:chosen AS bigint[])))
ORDER BY id = ANY (CAST(:chosen AS bigint[])) DESC, id DESC
LIMIT greatest(8, cardinality(CAST(:chosen AS bigint[])))
""")
NO_LIMITS = Limits(None, None, None)
MAX_PLACEHOLDERS = 8
MAX_ATTRIBUTE_NAMES = 200


def form_key() -> str:
    """Return the key of this form, which creates one mailing."""
    given = request.form.get("once") or request.args.get("once") or ""
    return given if KEY.fullmatch(given) else secrets.token_urlsafe(16)


def render_form(
    fields: dict[str, str],
    errors: dict[str, str] | None = None,
    mailing: Mailing | None = None,
    test: TestOutcome | None = None,
    *,
    basis: FormBasis | None = None,
    started: bool = False,
) -> str:
    """Render the form; one of a mailing without a given basis is made from the present version."""
    if mailing is not None and basis is None:
        basis = FormBasis.of_version(
            MAILING_FIELDS, fields_from_mailing(mailing), mailing.version, mailing.updated_at
        )
    shown = {SHOWN_AT.get(name, name): message for name, message in (errors or {}).items()}
    ids = map(read_id, split_list(fields["exclude_mailing_ids"])[:MAX_CHOSEN])
    chosen = [mailing_id for mailing_id in ids if mailing_id is not None]
    recent = fetch_all(EXCLUDABLE, chosen=chosen)
    return render_template(
        "admin/mailing_form.html",
        fields=fields,
        errors=shown,
        mailing=mailing,
        recent=recent,
        chosen=chosen,
        others=[each for each in chosen if each not in {row["id"] for row in recent}],
        show_rare_fields=any(fields[name] or shown.get(name) for name in RARE_FIELDS),
        placeholders=["phone", "tag", *list_attribute_names(MAX_PLACEHOLDERS)],
        lists=present_choices(fields),
        attribute_names=list_attribute_names(MAX_ATTRIBUTE_NAMES),
        counter=count_segments(fields["text"]),
        policy_rules=[*describe_mailing_rules(NO_LIMITS, Limits.of(find_policy()))],
        test=test,
        basis=basis,
        started_meanwhile=started,
        once=form_key(),
    )
