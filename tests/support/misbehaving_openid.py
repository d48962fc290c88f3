"""The demo OpenID provider with errors that a test chooses.

    python -m tests.support.misbehaving_openid --port 8070

`POST /control` sets its behaviour: `claims` are added to every token (null removes one); the values
of `from_now` are seconds from now; `signature` is honest, none, shared (the client's secret) or
foreign (another key with the same id); `issuer` is the name it claims; `rotate` replaces its key.
`metadata` is added to its description; `answers` are the status and body of its endpoints instead
of their own. `POST /sign` signs claims as the provider would, with the `typ` of the query.
`GET /control` returns the requests to end a session, and the open sessions.
"""

import argparse
import base64
import json
import signal
import sys
import time
from typing import Any, cast

from flask import Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.serving import make_server

from dev.openid import create_provider, new_key

SECRET = "the client's secret, which is long enough for HS256"
HONEST: dict[str, Any] = {
    "claims": {},
    "from_now": {},
    "signature": "honest",
    "issuer": None,
    "metadata": {},
    "answers": {},
}


def create_misbehaving_provider(issuer: str) -> Flask:
    app = create_provider(issuer, client_secret=SECRET)
    behaviour, ended = dict(HONEST), []
    sign = app.extensions["sign"]
    show_configuration = app.view_functions["show_configuration"]
    end_session = app.view_functions["end_session"]

    def sign_as_configured(claims: dict[str, Any], typ: str = "JWT") -> str:
        claims = claims | behaviour["claims"]
        now = int(time.time())
        claims |= {name: now + seconds for name, seconds in behaviour["from_now"].items()}
        claims = {name: value for name, value in claims.items() if value is not None}
        match behaviour["signature"]:
            case "none":
                parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
                encoded = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
                return ".".join(encoded) + "."
            case "shared":
                return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
            case "foreign":
                kid = app.extensions["keys"][-1].kid
                key = RSAKey.generate_key(2048, parameters={"kid": kid})
                return jwt.encode({"alg": "RS256", "kid": kid}, claims, key)
        return str(sign(claims, typ))

    app.extensions["sign"] = sign_as_configured

    def show_other_configuration() -> Response:
        answer = cast(Response, show_configuration())
        if behaviour["issuer"]:
            return jsonify(answer.get_json() | {"issuer": behaviour["issuer"]})
        return jsonify(answer.get_json() | behaviour["metadata"])

    def log_and_end_session() -> Any:
        ended.append(request.args.to_dict())
        return end_session()

    app.view_functions["show_configuration"] = show_other_configuration
    app.view_functions["end_session"] = log_and_end_session

    @app.post("/control")
    def change_behaviour() -> str:
        changes = request.get_json()
        if changes.pop("rotate", False):
            app.extensions["keys"][:] = [new_key()]
        behaviour.update(HONEST | changes)
        return "done"

    @app.get("/control")
    def show_sessions_of_tests() -> Response:
        open_sessions = [vars(each) for each in app.extensions["signed_in"].values()]
        return jsonify(ended=ended, sessions=open_sessions)

    @app.post("/sign")
    def sign_claims() -> str:
        return sign_as_configured(request.get_json(), request.args.get("typ", "JWT"))

    @app.before_request
    def answer_as_configured() -> Response | None:
        answer = behaviour["answers"].get(request.path)
        if answer is None:
            return None
        status, body = answer
        return Response(body if isinstance(body, str) else json.dumps(body), status)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_misbehaving_provider(f"http://127.0.0.1:{port}")
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
