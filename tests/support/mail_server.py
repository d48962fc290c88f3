"""A mail server for tests, in a thread of its own, that can be made to refuse and fail."""

import asyncio
import email
import ssl
import threading
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class MailServer:
    """Stores accepted messages; `refusals` and `replies` make it refuse recipients and messages."""

    def __init__(self, certificate: str = "", login: tuple[str, str] | None = None) -> None:
        self.messages: list[tuple[list[str], EmailMessage]] = []
        self.received = 0  # complete messages, accepted or not
        self.refusals: dict[str, str] = {}  # by recipient
        self.replies: list[str] = []  # replies to the next messages; "drop" closes the connection
        self.encrypted: list[bool] = []
        options: dict[str, Any] = {}
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            options = {"tls_context": context, "require_starttls": True}
        if login:
            options |= {"authenticator": _authenticator(login), "auth_required": True}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        # In its own thread, as the caller's may run another event loop (a browser's).
        self._server: asyncio.Server = asyncio.run_coroutine_threadsafe(
            self._loop.create_server(lambda: SMTP(self, **options), "127.0.0.1", 0), self._loop
        ).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}?starttls=never"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        """Close the listening socket and end all connections."""
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.received += 1
        answer = self.replies.pop(0) if self.replies else "250 OK"
        if answer == "drop":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        if answer.startswith("250"):
            self.encrypted.append(session.ssl is not None)
            assert isinstance(envelope.content, bytes)
            mail = email.message_from_bytes(envelope.content, policy=default)
            self.messages.append((list(envelope.rcpt_tos), mail))
        return answer


def _authenticator(login: tuple[str, str]) -> Any:
    def authenticate(*given: Any) -> AuthResult:
        data = given[-1]
        assert isinstance(data, LoginPassword)
        right = (data.login.decode(), data.password.decode()) == login
        # handled=False: the server sends the reply.
        return AuthResult(success=right, handled=False)

    return authenticate
