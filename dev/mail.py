"""A mail server for development: it stores what it receives and forwards nothing.

    python -m dev.mail --port 1025 --dir .local/mail [--page-port 8025]

Each mail is stored as received (`.eml`), with its HTML part beside it (`.html`). With --page-port,
a page shows them (dev/mail_page.py). It listens on 127.0.0.1 by default. Clients may log in with
the demonstration password, and need not.
"""

import argparse
import asyncio
import email
import itertools
import signal
import threading
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import orjson
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from werkzeug.serving import BaseWSGIServer

from dev.mail_page import make_page_server

USER, PASSWORD = b"notifications", b"demo-mail-password"
MAX_MAILS = 200
MAX_STORED_BYTES = 32 * 1024 * 1024  # in a container the folder is in memory
MAX_MAIL_BYTES = 8 * 1024 * 1024


class MailStore:
    """Writes each mail into the folder and removes the oldest ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # also one that an earlier version made: mails are personal

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store a mail; aiosmtpd calls this, and sends what it returns."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{next(self._numbers):04}"
        mail: EmailMessage = email.message_from_bytes(content, policy=default)
        html = mail.get_body(("html",))
        if html is not None:
            (self.folder / f"{name}.html").write_text(html.get_content())
        # Renamed when complete: the page may read at any moment.
        draft = self.folder / f"{name}.part"
        draft.write_bytes(content)
        draft.rename(self.folder / f"{name}.eml")
        self._remove_oldest()
        _log(event="mail.kept", file=f"{name}.eml", subject=str(mail["subject"]))
        return f"250 kept as {name}.eml"

    def _remove_oldest(self) -> None:
        free = MAX_STORED_BYTES
        for number, mail in enumerate(sorted(self.folder.glob("*.eml"), reverse=True)):
            html = mail.with_suffix(".html")
            free -= mail.stat().st_size + (html.stat().st_size if html.exists() else 0)
            if number and (number >= MAX_MAILS or free < 0):
                mail.unlink()
                html.unlink(missing_ok=True)


async def serve(host: str, port: int, page_port: int | None, folder: Path) -> None:
    """Receive and show mails until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    store = MailStore(folder)
    server = await loop.create_server(
        lambda: SMTP(
            store,
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            authenticator=_authenticate,
            auth_require_tls=False,
        ),
        host,
        port,
    )
    addresses = {"port": server.sockets[0].getsockname()[1]}
    page: BaseWSGIServer | None = None
    if page_port is not None:
        page = make_page_server(folder, host, page_port)
        threading.Thread(target=page.serve_forever, daemon=True).start()
        addresses["page"] = page.port
    _log(event="mail.listening", **addresses)
    await stopped.wait()
    server.close()
    if page is not None:
        page.shutdown()


def _authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: Any
) -> AuthResult:
    right = isinstance(login, LoginPassword) and login == (USER, PASSWORD)
    return AuthResult(success=right, handled=False)


def _log(**fields: object) -> None:
    print(orjson.dumps(fields).decode(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.mail", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="the port for SMTP")
    parser.add_argument("--page-port", type=int, help="the port of the page (no page)")
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port, arguments.page_port, arguments.dir))


if __name__ == "__main__":
    main()
