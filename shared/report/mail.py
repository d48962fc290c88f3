"""Hands a message to a mail server, and knows when only the server can tell what became of it."""

import re
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

TIMEOUT = 30.0


class NotSent(Exception):
    """The server has not taken the message: trying again later is right."""


class PerhapsSent(Exception):
    """The connection broke while the server had the message: it may have taken it."""


def deliver(smtp_url: str, mail: EmailMessage, before_data: Callable[[], None]) -> None:
    """Hand `mail` to the server at `smtp_url`.

    `smtp://` upgrades to TLS by STARTTLS (`?starttls=never` for a server on a closed network does
    not), `smtps://` begins with it. `before_data` is called right before the message itself goes
    out. Raises NotSent or PerhapsSent.
    """
    given = taken = False
    try:
        with _connect(smtp_url) as server:
            sender, recipients = str(mail["From"]), str(mail["To"]).split(", ")
            _expect(server.mail(_address(sender)), 250)
            refused = [r for r in recipients if server.rcpt(_address(r))[0] not in (250, 251)]
            if len(refused) == len(recipients):
                raise NotSent("the server refused every recipient")
            _expect(server.docmd("data"), 354)
            before_data()
            given = True
            server.send(_stuffed(mail.as_bytes(policy=mail.policy.clone(linesep="\r\n"))))
            answer = server.getreply()
            given = False
            _expect(answer, 250)
            taken = True
    except (OSError, smtplib.SMTPException) as error:
        if taken:
            return  # only the farewell failed
        problem = f"{type(error).__name__}: {error}"[:500]
        raise (PerhapsSent if given else NotSent)(problem) from error


def _connect(smtp_url: str) -> smtplib.SMTP:
    parts = urlsplit(smtp_url)
    host = parts.hostname or "localhost"
    context = ssl.create_default_context()
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, parts.port or 465, timeout=TIMEOUT, context=context
        )
    else:
        server = smtplib.SMTP(host, parts.port or 587, timeout=TIMEOUT)
    try:
        server.ehlo_or_helo_if_needed()
        if parts.scheme == "smtp" and "starttls=never" not in parts.query:
            server.starttls(context=context)
            server.ehlo()
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def _stuffed(content: bytes) -> bytes:
    """A message as it goes over the wire: dots doubled at the start of lines, a dot at the end."""
    body = re.sub(rb"(?m)^\.", b"..", content)
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def _expect(answer: tuple[int, bytes], code: int) -> None:
    if answer[0] != code:
        raise NotSent(f"the server answered {answer[0]} {answer[1].decode(errors='replace')[:300]}")


def _address(text: str) -> str:
    return text.rpartition("<")[2].rstrip(">").strip()
