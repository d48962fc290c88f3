"""The form of a mailing: the counter of its text, what a text costs, misspelt placeholders."""

import re
from html import unescape

import pytest
from flask import Flask

from tests.integration.admin.test_forms import page, submit
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import ahead, make_admin_app, make_client

LATIN = "Only today: everything at half the price, in all of our shops. Come in and see us soon"


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    app = make_admin_app(database_url, redis_url, SEGMENT_PRICE="2.50")
    body = {"phone": "79160000001", "timezone": "UTC", "attributes": {"Имя": "Анна"}}
    assert make_client(app).post("/api/v1/clients", json=body).status_code == 201
    return app


def fields(text: str) -> dict[str, str]:
    times = {"starts": "now", "end_at": "2030-12-02T09:00", "zone": "UTC"}
    return {"text": text, "limited": "", **times}


def counter(html: str) -> str:
    found = re.search(r'id="text-counter"[^>]*>([^<]*)<', html)
    assert found is not None
    return unescape(found[1])


@pytest.mark.parametrize(
    ("language", "text", "shown"),
    [
        ("en", "", "0 of 160, 1 SMS, 2.50"),
        ("en", "Hello, {name|friend}", "13 of 160, 1 SMS, 2.50"),
        ("ru", "Привет!" * 10, "70 из 70, SMS: 1, 2,50"),
        ("ru", "Привет!" * 10 + "!", "71 из 134, SMS: 2, 5,00"),
        ("en", "x" * 2070, "At most 2,000 characters: shorten the text by 70."),
    ],
)
def test_the_counter_shows_what_was_submitted(
    app: Flask, language: str, text: str, shown: str
) -> None:
    operator = Signed(app, "operator")
    headers = {"Accept-Language": language}
    form = submit(operator, "/admin/mailings/new", {**fields(text), "back": "1"}, headers=headers)
    assert counter(form.text).replace("\xa0", " ").startswith(shown)
    assert text in unescape(form.text), "the text was cut"


def test_a_text_that_is_too_long_is_refused_with_the_excess(app: Flask) -> None:
    answer = submit(Signed(app, "operator"), "/admin/mailings/new", fields("x" * 2070))
    assert answer.status_code == 422
    assert 'id="text-fault">At most 2,000 characters: shorten the text by 70.' in answer.text


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("Здравствуйте, {имя}!", "No client seems to have {имя}. Did you mean {Имя}?"),
        (LATIN + " 🎉", "Because of 🎉 an SMS holds 70 characters instead of 160"),
        ("Привет!" * 9 + " https://shop.example/sale", "Links take 25 characters"),
    ],
)
def test_preview_and_review_warn_of_costs_and_misspelt_placeholders(
    app: Flask, text: str, warning: str
) -> None:
    operator = Signed(app, "operator")
    for path in ("/admin/mailings/preview", "/admin/mailings/new"):
        assert warning in unescape(submit(operator, path, fields(text)).text), path


def test_the_api_warns_of_a_misspelt_placeholder(app: Flask) -> None:
    body = {"text": "{имя}!", "start_at": ahead(seconds=0), "end_at": ahead(hours=1)}
    answer = make_client(app).post("/api/v1/mailings/preview", json=body).get_json()
    (warning,) = (w for w in answer["warnings"] if w["code"] == "misspelt_placeholder")
    assert warning["detail"] == "No client has {имя}: did you mean {Имя}?"
    correct = make_client(app).post("/api/v1/mailings/preview", json={**body, "text": "{Имя}!"})
    assert "misspelt_placeholder" not in {w["code"] for w in correct.get_json()["warnings"]}


def test_a_new_form_has_an_empty_counter(app: Flask) -> None:
    html = page(Signed(app, "operator"), "/admin/mailings/new")
    assert counter(html).startswith("0 of 160")
    assert "maxlength" not in html[html.index("<textarea") : html.index("</textarea>")]
