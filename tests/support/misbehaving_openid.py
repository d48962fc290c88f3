"""An OpenID provider that does as it is told, also wrong: the demo one, with another at the pen.

    python -m tests.integration.misbehaving_openid --port 8070

`POST /control` changes its ways: `claims` are put into every token (null takes one out), and of
those in `from_now` the value is seconds from now; `signature` is honest, none, shared (the client's
secret) or foreign (a key of the same name that is not its own); `issuer` is what it calls itself;
`rotate` gives it a new key and drops the former one. `GET /control` tells what it was asked.
"""

import argparse
import base64
import json
import signal
import sys
import time
from typing import Any

from flask import Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.serving import make_server

from dev.openid import create_provider, new_key

SECRET = "the client's secret, which is long enough for HS256"
HONEST: dict[str, Any] = {"claims": {}, "from_now": {}, "signature": "honest", "issuer": None}


def misbehaving(issuer: str) -> Flask:
    app = create_provider(issuer)
    ways, ended = dict(HONEST), []
    sign, discover, end = (
        app.extensions["sign"],
        app.view_functions["discover"],
        app.view_functions["end"],
    )

    def sign_as_told(claims: dict[str, Any]) -> str:
        claims = claims | ways["claims"]
        claims |= {name: int(time.time()) + ahead for name, ahead in ways["from_now"].items()}
        claims = {name: value for name, value in claims.items() if value is not None}
        match ways["signature"]:
            case "none":
                parts = ({"alg": "none"}, claims)
                plain = (json.dumps(part).encode() for part in parts)
                return (
                    ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in plain) + "."
                )
            case "shared":
                return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
            case "foreign":
                name = app.extensions["signing"][-1].kid
                key = RSAKey.generate_key(2048, parameters={"kid": name})
                return jwt.encode({"alg": "RS256", "kid": name}, claims, key)
        return str(sign(claims))

    app.extensions["sign"] = sign_as_told

    def discovered() -> Response:
        answer: Response = discover()
        if ways["issuer"]:
            return jsonify(answer.get_json() | {"issuer": ways["issuer"]})
        return answer

    def ending() -> Any:
        ended.append(request.args.to_dict())
        return end()

    app.view_functions.update(discover=discovered, end=ending)

    @app.post("/control")
    def change() -> str:
        told = request.get_json()
        if told.pop("rotate", False):
            app.extensions["signing"][:] = [new_key()]
        ways.update(HONEST | told)
        return "done"

    @app.get("/control")
    def tell() -> Response:
        return jsonify(ended=ended)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    make_server(
        "127.0.0.1", port, misbehaving(f"http://127.0.0.1:{port}"), threaded=True
    ).serve_forever()


if __name__ == "__main__":
    main()
