"""A mail server on loopback that answers what a test wants."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, LoginPassword

HANG = "hang"
DROP = "drop"
USER, PASSWORD = "billing@acme.test", "s3cret/of the house"


@dataclass(frozen=True)
class Arrived:
    sender: str
    recipient: str
    content: bytes
    encrypted: bool
    user: str | None


@dataclass
class MailServer:
    """A handler of aiosmtpd: its hooks are found by their names."""

    port: int = 0
    loop: asyncio.AbstractEventLoop | None = None
    answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By command, what to answer next instead of agreeing: a reply, `HANG` or `DROP`."""
    arrived: list[Arrived] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    async def _answer(self, server: SMTP, command: str) -> str | None:
        self.commands.append(command)
        answer = self.answers[command].pop(0) if self.answers[command] else None
        if answer == HANG:
            await asyncio.Event().wait()
        if answer == DROP:
            server.transport.abort()
        return answer

    async def handle_MAIL(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.mail_from = address
        return await self._answer(server, "MAIL") or "250 2.1.0 OK"

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        answer = await self._answer(server, "RCPT")
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        answer = await self._answer(server, "DATA")
        if answer is None:
            encrypted = server.transport.get_extra_info("sslcontext") is not None
            user = session.auth_data.decode() if session.auth_data else None
            [recipient] = envelope.rcpt_tos
            self.arrived.append(Arrived(envelope.mail_from, recipient, envelope.content, encrypted, user))
        return answer or "250 2.0.0 taken"

    async def handle_AUTH(self, server: SMTP, session: Any, envelope: Any, words: list[str]) -> Any:
        return await self._answer(server, "AUTH") or MISSING

    async def handle_QUIT(self, server: SMTP, session: Any, envelope: Any) -> str:
        return await self._answer(server, "QUIT") or "221 2.0.0 goodbye"


def _authenticate(server: SMTP, session: Any, envelope: Any, mechanism: str, given: LoginPassword) -> AuthResult:
    known = given == LoginPassword(USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=False, auth_data=given.login if known else None)


@contextmanager
def mail_server(
    *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[MailServer]:
    """`starttls` is offered, `tls` is spoken from the start; `options` are aiosmtpd's."""
    state = MailServer()
    listening, stopping = threading.Event(), asyncio.Event()
    options = {"hostname": "mail.test", "auth_require_tls": starttls is not None, **options}

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            return SMTP(state, tls_context=starttls, authenticator=_authenticate, loop=loop, **options)

        async with await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls) as server:
            state.loop, state.port = loop, server.sockets[0].getsockname()[1]
            listening.set()
            await stopping.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert listening.wait(10)
    try:
        yield state
    finally:
        assert state.loop is not None
        state.loop.call_soon_threadsafe(stopping.set)
        thread.join()
