"""The API's documentation: openapi.json and Swagger UI, served from local files."""

import re
from base64 import b64encode
from hashlib import sha256

from flask import Blueprint, Flask, Response, current_app, jsonify, redirect
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.wrappers import Response as BaseResponse

from api.openapi.operation import openapi_document, spec

blueprint = Blueprint("docs", __name__)

# Permit resources of this origin and the one inline script that starts Swagger UI, by its hash.
# Icons in the style sheet are data: URLs.
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
            "validatorUrl": None,  # else Swagger UI sends the document to a public service
        },
    )
    pages.after_request(_set_content_security_policy)
    app.register_blueprint(pages)


def _set_content_security_policy(response: Response) -> Response:
    if response.mimetype == "text/html":
        page = b"" if response.direct_passthrough else response.get_data()
        hashes = (b64encode(sha256(script).digest()) for script in INLINE_SCRIPT.findall(page))
        scripts = "".join(f" 'sha256-{each.decode()}'" for each in hashes)
        response.headers["Content-Security-Policy"] = POLICY.format(scripts=scripts)
    return response
