"""The API's documentation: openapi.json and Swagger UI, from local files, with no internet."""

import re
from base64 import b64encode
from hashlib import sha256

from flask import Blueprint, Flask, Response, current_app, jsonify, redirect
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.wrappers import Response as BaseResponse

from api.openapi.operation import openapi_document, spec

blueprint = Blueprint("docs", __name__)

# Nothing is loaded from elsewhere, and nothing inside of the page is run but the one script that
# starts Swagger UI, known by its hash. Icons in its style sheet are data: addresses.
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


@blueprint.get(spec.config.spec_url)
def openapi_json() -> Response:
    return jsonify(openapi_document(current_app))


@blueprint.get("/apidoc/swagger")
def swagger() -> BaseResponse:
    return redirect("/docs/", 302)


def init_swagger_ui(app: Flask) -> None:
    app.register_blueprint(blueprint)
    pages = get_swaggerui_blueprint(
        "/docs",
        spec.config.spec_url,
        config={
            "app_name": spec.config.TITLE,
            "layout": "BaseLayout",
            "oauth2RedirectUrl": "/docs/oauth2-redirect.html",
            "persistAuthorization": True,
            "validatorUrl": None,  # or it would ask a public service about our spec
        },
    )
    pages.after_request(_confine)
    app.register_blueprint(pages)


def _confine(response: Response) -> Response:
    if response.mimetype == "text/html":
        page = b"" if response.direct_passthrough else response.get_data()
        hashes = (b64encode(sha256(script).digest()) for script in INLINE_SCRIPT.findall(page))
        scripts = "".join(f" 'sha256-{each.decode()}'" for each in hashes)
        response.headers["Content-Security-Policy"] = POLICY.format(scripts=scripts)
    return response
