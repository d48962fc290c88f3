"""Sends a message to a mail server, and reports whether it may have been accepted on an error."""

import contextlib
import re
import smtplib
import ssl
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

# Seconds: for one reply of the server, and for everything before the message itself.
ANSWER_TIMEOUT = 30.0
ENVELOPE_TIMEOUT = 180.0


class NotSent(Exception):
    """The server has not accepted the message, so it can be sent again."""


class SentInDoubt(Exception):
    """The connection broke after the message was transmitted: the server may have accepted it."""


def deliver_mail(
    smtp_url: str,
    mail: EmailMessage,
    recipients: list[str],
    before_data: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Send `mail` to `recipients` through the server at `smtp_url`.

    `smtp://` uses STARTTLS (except with `?starttls=never`, for a server on a closed network),
    `smtps://` uses TLS from the start. `before_data` is called directly before the message itself
    is transmitted; an error of it cancels sending. Return the recipients that the server refused,
    with its replies; it has accepted the message for the others. Raise NotSent or SentInDoubt.
    """
    content = _encode_data(mail.as_bytes())
    until = time.monotonic() + ENVELOPE_TIMEOUT
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
    """Transmit sender and recipients; return the refused recipients with the server's replies."""
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
    """Encode a message for DATA: double dots at the start of lines, append a line with a dot."""
    body = re.sub(rb"(?m)^\.", b"..", content)
    return body + (b"" if body.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def _check_answer(answer: tuple[int, bytes], code: int) -> None:
    if answer[0] != code:
        raise NotSent(f"the server answered {answer[0]} {answer[1].decode(errors='replace')[:300]}")
