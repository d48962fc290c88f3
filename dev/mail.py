"""A mail server for one's own machine: what it takes is kept in a folder, and goes nowhere.

    python -m dev.mail --port 8025 --dir .local/mail [--page-port 8026]

Each mail is kept as it came (`.eml`), and its HTML part beside it (`.html`), for a browser. With
--page-port, a page shows them (dev/mail_page.py). It listens on 127.0.0.1 unless told otherwise.
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

import orjson
from aiosmtpd.smtp import SMTP, Envelope, Session
from werkzeug.serving import BaseWSGIServer

from dev.mail_page import serve_page

MOST_KEPT = 200
# In a container the folder is in memory.
MOST_BYTES = 32 * 1024 * 1024
LARGEST = 8 * 1024 * 1024


class Keeper:
    """Writes each mail into the folder; the oldest make way."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._numbers = itertools.count(1)
        folder.mkdir(parents=True, exist_ok=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{next(self._numbers):04}"
        mail: EmailMessage = email.message_from_bytes(content, policy=default)
        html = mail.get_body(("html",))
        if html is not None:
            (self.folder / f"{name}.html").write_text(html.get_content())
        # Whole or not at all: somebody may be looking.
        part = self.folder / f"{name}.part"
        part.write_bytes(content)
        part.rename(self.folder / f"{name}.eml")
        self._make_room()
        line = {"event": "mail.kept", "file": f"{name}.eml", "subject": str(mail["subject"])}
        print(orjson.dumps(line).decode(), flush=True)
        return f"250 kept as {name}.eml"

    def _make_room(self) -> None:
        left = MOST_BYTES
        for number, mail in enumerate(sorted(self.folder.glob("*.eml"), reverse=True)):
            html = mail.with_suffix(".html")
            left -= mail.stat().st_size + (html.stat().st_size if html.exists() else 0)
            if number and (number >= MOST_KEPT or left < 0):
                mail.unlink()
                html.unlink(missing_ok=True)


async def serve(host: str, port: int, page_port: int | None, folder: Path) -> None:
    """Take mails, and show them, until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    keeper = Keeper(folder)
    server = await loop.create_server(
        lambda: SMTP(keeper, data_size_limit=LARGEST, enable_SMTPUTF8=True), host, port
    )
    page: BaseWSGIServer | None = None
    if page_port is not None:
        page = serve_page(folder, host, page_port)
        threading.Thread(target=page.serve_forever, daemon=True).start()
    line = {"event": "mail.listening", "port": server.sockets[0].getsockname()[1]}
    print(orjson.dumps(line | ({"page": page.port} if page else {})).decode(), flush=True)
    await stopped.wait()
    server.close()
    if page is not None:
        page.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.mail", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="of SMTP")
    parser.add_argument("--page-port", type=int, help="of the page that shows them (none)")
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port, arguments.page_port, arguments.dir))


if __name__ == "__main__":
    main()
