"""The page that shows the mails of the local mail server. It is read-only and trusts no mail.

A mail's HTML is shown in a sandboxed frame that runs and loads nothing; attachments are only ever
downloaded.
"""

import email
import logging
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
from werkzeug.serving import BaseWSGIServer, make_server

NAME = re.compile(r"\d{8}-\d{6}-\d{4,}")
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# A mail may do nothing but open its links in new tabs.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
MAIL_POLICY = (
    f"sandbox {SANDBOX}; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)
OPEN_IN_NEW_TAB = '<base target="_blank">'


@dataclass(frozen=True)
class Mail:
    """A mail as the page shows it."""

    name: str
    subject: str
    sender: str
    to: str
    at: datetime
    html: str | None
    text: str | None
    source: str
    attachments: tuple[tuple[str, str, bytes], ...]  # name, type, content

    @property
    def initial(self) -> str:
        return next((letter.upper() for letter in self.sender if letter.isalnum()), "?")

    @property
    def views(self) -> list[str]:
        return [view for view in ("html", "text", "source") if getattr(self, view) is not None]


def create_page(folder: Path) -> Flask:
    """Create the page's application over the mails in this folder."""
    app = Flask("mail", template_folder=str(Path(__file__).parent), static_folder=None)
    app.jinja_env.filters["size"] = _format_size

    @app.before_request
    def refuse_other_hosts() -> None:
        """Prevent DNS rebinding: another site's name may point to this machine."""
        host = urlsplit(f"//{request.host}").hostname or ""
        if host not in ("127.0.0.1", "::1", "localhost") and not host.endswith(".localhost"):
            abort(403, "This page is for the machine it runs on: use 127.0.0.1.")

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.get("/")
    def show_newest_mail() -> Response:
        return _render_page(folder, next(iter(_list_names(folder)), None), chosen=False)

    @app.get("/mails/<name>/")
    def show_mail(name: str) -> Response:
        _find_mail(folder, name)
        return _render_page(folder, name, chosen=True)

    @app.get("/mails/<name>/html")
    def show_html(name: str) -> Response:
        html = _find_mail(folder, name).html
        if html is None:
            abort(404)
        framed, heads = HEAD.subn(lambda head: head[0] + OPEN_IN_NEW_TAB, html, count=1)
        response = Response(framed if heads else OPEN_IN_NEW_TAB + html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = MAIL_POLICY
        return response

    @app.get("/mails/<name>/attachments/<int:number>")
    def download_attachment(name: str, number: int) -> Response:
        attachments = _find_mail(folder, name).attachments
        if number >= len(attachments):
            abort(404)
        file_name, _, content = attachments[number]
        # Whatever its declared type: the browser must save it, not show it.
        response = Response(content, mimetype="application/octet-stream")
        response.headers.set("Content-Disposition", "attachment", filename=file_name)
        return response

    @app.get("/newest")
    def show_newest_name() -> Response:
        return jsonify(name=next(iter(_list_names(folder)), None))

    return app


def _render_page(folder: Path, name: str | None, chosen: bool) -> Response:
    mail = _read_mail(folder, name) if name else None
    views = mail.views if mail else ["source"]
    view = request.args.get("view")
    nonce = secrets.token_urlsafe(12)
    page = render_template(
        "mail_page.html",
        mails=[_read_mail(folder, each) for each in _list_names(folder)],
        mail=mail,
        chosen=chosen,
        views=views,
        view=view if view in views else views[0],
        sandbox=SANDBOX,
        nonce=nonce,
    )
    policy = {"Content-Security-Policy": PAGE_POLICY.format(nonce=nonce)}
    return Response(page, headers=policy, mimetype="text/html")


def _list_names(folder: Path) -> list[str]:
    """Return the names of the stored mails, the newest first."""
    return sorted(path.stem for path in folder.glob("*.eml") if NAME.fullmatch(path.stem))[::-1]


def _find_mail(folder: Path, name: str) -> Mail:
    if not NAME.fullmatch(name) or not (folder / f"{name}.eml").is_file():
        abort(404, "This mail is not stored any more.")
    return _read_mail(folder, name)


@lru_cache(maxsize=256)
def _read_mail(folder: Path, name: str) -> Mail:
    content = (folder / f"{name}.eml").read_bytes()
    mail: EmailMessage = email.message_from_bytes(content, policy=default)
    return Mail(
        name=name,
        subject=str(mail["subject"] or "(no subject)"),
        sender=str(mail["from"] or "(no sender)"),
        to=str(mail["to"] or ""),
        at=datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
        html=_read_body(mail, "html"),
        text=_read_body(mail, "plain"),
        source=content.decode("utf-8", "replace"),
        attachments=tuple(
            (part.get_filename() or "unnamed", part.get_content_type(), _read_content(part))
            for part in mail.iter_attachments()
        ),
    )


def _read_body(mail: EmailMessage, kind: str) -> str | None:
    part = mail.get_body((kind,))
    return _read_content(part).decode("utf-8", "replace") if part is not None else None


def _read_content(part: Any) -> bytes:
    try:
        content = part.get_content()
    except (KeyError, LookupError):  # a multipart, or an unknown character set
        return bytes(part.get_payload(decode=True) or b"")
    return content.encode() if isinstance(content, str) else bytes(content)


def _format_size(content: bytes) -> str:
    length = len(content)
    return f"{length} bytes" if length < 1024 else f"{length / 1024:.1f} KiB"


def make_page_server(folder: Path, host: str, port: int) -> BaseWSGIServer:
    """Return the page's server, listening; the caller serves and shuts down."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line per request
    return make_server(host, port, create_page(folder), threaded=True)
