"""The page that shows what the local mail server took. It changes nothing, and trusts no mail.

A mail's HTML is shown in a frame of no origin, in which nothing runs and nothing is loaded; what is
attached is only ever downloaded.
"""

import email
import email.utils
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, jsonify, render_template, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

NAME = re.compile(r"\d{8}-\d{6}-\d{4,}")
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# A mail's links open in a tab of their own; that is all it may do.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
MAIL_POLICY = (
    f"sandbox {SANDBOX}; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)
VIEWS = ("html", "text", "source")


@dataclass(frozen=True)
class Shown:
    """A mail, as the page needs it."""

    name: str
    subject: str
    sender: str
    to: str
    at: datetime
    html: str | None
    text: str | None
    attachments: tuple[tuple[str, str, bytes], ...]  # name, type, content

    @property
    def initial(self) -> str:
        return next((letter.upper() for letter in self.sender if letter.isalnum()), "?")


def create_page(folder: Path) -> Flask:
    """The page's application over the mails in this folder."""
    app = Flask("mail", template_folder=str(Path(__file__).parent), static_folder=None)
    app.jinja_env.filters["size"] = _size

    @app.before_request
    def refuse_strangers() -> None:
        """A page from elsewhere that points its name at this machine must not read along."""
        host = urlsplit(f"//{request.host}").hostname or ""
        if host not in ("127.0.0.1", "::1", "localhost") and not host.endswith(".localhost"):
            abort(403, "This page is for the machine it runs on: use 127.0.0.1.")

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; sandbox")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/")
    def home() -> Response:
        names = _names(folder)
        return _page(folder, names, names[0] if names else None, chosen=False)

    @app.get("/mails/<name>/")
    def mail(name: str) -> Response:
        _find(folder, name)
        return _page(folder, _names(folder), name, chosen=True)

    @app.get("/mails/<name>/html")
    def html(name: str) -> Response:
        found = _find(folder, name).html
        if found is None:
            abort(404)
        target = '<base target="_blank">'
        framed, heads = HEAD.subn(lambda head: head[0] + target, found, count=1)
        response = Response(framed if heads else target + found, mimetype="text/html")
        response.headers["Content-Security-Policy"] = MAIL_POLICY
        return response

    @app.get("/mails/<name>/attachments/<int:number>")
    def attachment(name: str, number: int) -> Response:
        attachments = _find(folder, name).attachments
        if number >= len(attachments):
            abort(404)
        file_name, _, content = attachments[number]
        # Whatever it says it is: the browser is to keep it, not to show it.
        response = Response(content, mimetype="application/octet-stream")
        response.headers.set("Content-Disposition", "attachment", filename=file_name)
        return response

    @app.get("/newest")
    def newest() -> Response:
        return jsonify(name=next(iter(_names(folder)), None))

    return app


def _page(folder: Path, names: list[str], name: str | None, chosen: bool) -> Response:
    mail = _read(folder, name) if name else None
    has = [view for view in VIEWS if view == "source" or (mail and getattr(mail, view) is not None)]
    view = request.args.get("view", has[0])
    source = ""
    if mail and view == "source":
        source = (folder / f"{mail.name}.eml").read_bytes().decode("utf-8", "replace")
    nonce = secrets.token_urlsafe(12)
    response = Response(
        render_template(
            "mail_page.html",
            mails=[_read(folder, each) for each in names],
            mail=mail,
            chosen=chosen,
            views=has,
            view=view if view in has else has[0],
            source=source,
            sandbox=SANDBOX,
            nonce=nonce,
        )
    )
    response.headers["Content-Security-Policy"] = PAGE_POLICY.format(nonce=nonce)
    return response


def _names(folder: Path) -> list[str]:
    """The mails that are kept, the newest first."""
    return sorted(path.stem for path in folder.glob("*.eml") if NAME.fullmatch(path.stem))[::-1]


def _find(folder: Path, name: str) -> Shown:
    if not NAME.fullmatch(name) or not (folder / f"{name}.eml").is_file():
        abort(404, "This mail is not kept any more.")
    return _read(folder, name)


@lru_cache(maxsize=256)
def _read(folder: Path, name: str) -> Shown:
    """Mails do not change once they are kept."""
    content = (folder / f"{name}.eml").read_bytes()
    mail: EmailMessage = email.message_from_bytes(content, policy=default)
    return Shown(
        name=name,
        subject=str(mail["subject"] or "(no subject)"),
        sender=str(mail["from"] or "(nobody)"),
        to=str(mail["to"] or ""),
        at=datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
        html=_body(mail, "html"),
        text=_body(mail, "plain"),
        attachments=tuple(
            (part.get_filename() or "unnamed", part.get_content_type(), _content(part))
            for part in mail.iter_attachments()
        ),
    )


def _body(mail: EmailMessage, kind: str) -> str | None:
    part = mail.get_body((kind,))
    return _content(part).decode("utf-8", "replace") if part is not None else None


def _content(part: Any) -> bytes:
    try:
        content = part.get_content()
    except (KeyError, LookupError):  # a multipart, a character set that nobody knows
        return bytes(part.get_payload(decode=True) or b"")
    return content.encode() if isinstance(content, str) else bytes(content)


def _size(content: bytes) -> str:
    length = len(content)
    return f"{length} bytes" if length < 1024 else f"{length / 1024:.1f} KiB"


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def serve_page(folder: Path, host: str, port: int) -> BaseWSGIServer:
    """The page's server, listening; `serve_forever` and `shutdown` are its caller's."""
    return make_server(host, port, create_page(folder), threaded=True, request_handler=_Quiet)
