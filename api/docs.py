"""The API's documentation: openapi.json and Swagger UI, from local files, with no internet."""

from flask import Blueprint, Flask, Response, current_app, jsonify, redirect
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.wrappers import Response as BaseResponse

from api.openapi import openapi_document, spec

docs = Blueprint("docs", __name__)


@docs.get(spec.config.spec_url)
def openapi_json() -> Response:
    return jsonify(openapi_document(current_app))


@docs.get("/apidoc/swagger")
def swagger() -> BaseResponse:
    return redirect("/docs/", 302)


def init_docs(app: Flask) -> None:
    app.register_blueprint(docs)
    app.register_blueprint(
        get_swaggerui_blueprint(
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
    )
