"""A mail server for one's own machine: what it takes is kept in a folder, and goes nowhere.

    python -m dev.mail --port 8025 --dir .local/mail

Each mail is kept as it came (`.eml`), and its HTML part beside it (`.html`), for a browser. It
listens on 127.0.0.1 only and is no part of any image.
"""

import argparse
import asyncio
import email
import itertools
import signal
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import orjson
from aiosmtpd.smtp import SMTP, Envelope, Session

MOST_KEPT = 200


class Keeper:
    """Writes each mail into the folder."""

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
        (self.folder / f"{name}.eml").write_bytes(content)
        for old in sorted(self.folder.glob("*.eml"))[:-MOST_KEPT]:
            old.unlink()
            old.with_suffix(".html").unlink(missing_ok=True)
        line = {"event": "mail.kept", "file": f"{name}.eml", "subject": str(mail["subject"])}
        print(orjson.dumps(line).decode(), flush=True)
        return f"250 kept as {name}.eml"


async def serve(port: int, folder: Path) -> None:
    """Take mails until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    keeper = Keeper(folder)
    server = await loop.create_server(lambda: SMTP(keeper), "127.0.0.1", port)
    print(orjson.dumps({"event": "mail.listening", "port": port}).decode(), flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.mail", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.dir))


if __name__ == "__main__":
    main()
