"""Hands a message to a mail server, and knows when only the server can tell what became of it."""

import contextlib
import re
import smtplib
import ssl
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

# How long one answer of the server may take, and everything before the message itself.
ANSWER_TIMEOUT = 30.0
APPROACH_SECONDS = 180.0


class NotSent(Exception):
    """The server has not taken the message: trying again later is right."""


class SentInDoubt(Exception):
    """The connection broke while the server had the message: it may have taken it."""


def deliver_mail(
    smtp_url: str,
    mail: EmailMessage,
    recipients: list[str],
    before_data: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Hand `mail` to the server at `smtp_url` for `recipients`.

    `smtp://` upgrades to TLS by STARTTLS (`?starttls=never` for a server on a closed network does
    not), `smtps://` begins with it. `before_data` is called right before the message itself goes
    out; what it raises calls it off. Returns the recipients that the server refused, with its
    answers; the others are served. Raises NotSent or SentInDoubt.
    """
    content = _encode_data(mail.as_bytes())
    until = time.monotonic() + APPROACH_SECONDS
    given = False
    try:
        server = _connect(smtp_url)
        try:
            refused = _send_envelope(server, mail, recipients, until)
            before_data()
            _check_answer(server.docmd("data"), 354)
            given = True
            server.send(content)
            answer = server.getreply()
            given = False
            _check_answer(answer, 250)
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()
        finally:
            server.close()
    except (OSError, smtplib.SMTPException) as error:
        problem = f"{type(error).__name__}: {error}"[:500]
        raise (SentInDoubt if given else NotSent)(problem) from error
    return refused


def _connect(smtp_url: str) -> smtplib.SMTP:
    parts = urlsplit(smtp_url)
    host = parts.hostname or "localhost"
    context = ssl.create_default_context()
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, parts.port or 465, timeout=ANSWER_TIMEOUT, context=context
        )
    else:
        server = smtplib.SMTP(host, parts.port or 587, timeout=ANSWER_TIMEOUT)
    try:
        server.ehlo_or_helo_if_needed()
        if parts.scheme == "smtp" and parts.query != "starttls=never":
            server.starttls(context=context)
            server.ehlo()
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def _send_envelope(
    server: smtplib.SMTP, mail: EmailMessage, recipients: list[str], until: float
) -> dict[str, str]:
    """Say from whom and to whom it is; the refused recipients with the server's answers."""
    _check_answer(server.mail(parseaddr(str(mail["From"]))[1]), 250)
    refused = {}
    for recipient in recipients:
        if time.monotonic() > until:
            raise NotSent("the server is too slow")
        code, text = server.rcpt(recipient)
        if code not in (250, 251):
            refused[recipient] = f"{code} {text.decode(errors='replace')[:200]}"
    if len(refused) == len(recipients):
        raise NotSent(f"the server refused every recipient: {refused[recipients[0]]}")
    return refused


def _encode_data(content: bytes) -> bytes:
    """A message as it goes over the wire: dots doubled at the start of lines, a dot at the end."""
    body = re.sub(rb"(?m)^\.", b"..", content)
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def _check_answer(answer: tuple[int, bytes], code: int) -> None:
    if answer[0] != code:
        raise NotSent(f"the server answered {answer[0]} {answer[1].decode(errors='replace')[:300]}")
