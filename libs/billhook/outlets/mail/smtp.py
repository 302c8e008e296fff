"""Mail over SMTP: one conversation a mail, encrypted unless told otherwise, and over after a minute."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from contextlib import closing, suppress
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

from billhook.errors import SettingsError, TryAgain, Unprocessable
from billhook.outlets.mail.mime import Mail, compose, mailbox, sender_of

CONNECT_SECONDS: Final = 10.0

DEADLINE_SECONDS: Final = 60.0
"""For one mail, from connecting to the server's last word. RFC 5321 section 4.5.3.2 would wait ten minutes for that
word alone, since who gives up sooner may send a mail twice; but a server that takes a minute is as good as away."""

_TOO_LARGE: Final = 552
"""What a server answers to MAIL when the size it is told is more than it ever takes (RFC 1870)."""

_USAGE: Final = (
    "use smtp://user:password@host:587, smtps://user:password@host:465 or file:///absolute/path"
    " (in a password / # ? @ : are written %2F %23 %3F %40 %3A)"
)


class SmtpMailer:
    """Each mail has a connection of its own, so that a failure of one does not affect the next."""

    def __init__(
        self, url: str, sender: str, *, tls: ssl.SSLContext | None = None, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise SettingsError(f"mail: not a URL: {_USAGE}") from None
        if parts.scheme not in ("smtp", "smtps") or not host or parts.path not in ("", "/") or parts.fragment:
            raise SettingsError(f"mail: {_USAGE}")
        if parts.query and (parts.scheme, parts.query) != ("smtp", "tls=none"):
            raise SettingsError("mail: the only option is ?tls=none, with smtp://")
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        if not (self._user + self._password).isascii() or bool(self._user) != bool(self._password):
            raise SettingsError("mail: a server takes a user name and a password, both in ASCII, or neither")
        self._host = host
        self._port = port or (465 if parts.scheme == "smtps" else 587)
        self._from_the_start = parts.scheme == "smtps"
        self._starttls = parts.scheme == "smtp" and not parts.query
        self._tls = tls or ssl.create_default_context()
        self._sender = sender_of(sender)
        self._deadline_seconds = deadline_seconds
        self._server = f"the mail server {host}:{self._port}"

    def send(self, mail: Mail) -> None:
        recipient = mailbox(mail.recipient).address
        content = compose(mail, self._sender)
        with _Deadline(self._deadline_seconds) as deadline:
            try:
                with closing(self._connect(deadline)) as smtp:
                    try:
                        self._log_in(smtp)
                        self._hand_over(smtp, recipient, content)
                    finally:
                        # The mail is accepted or refused by now; a failing QUIT does not change that.
                        with suppress(OSError):
                            smtp.quit()
            except smtplib.SMTPResponseException as error:
                raise TryAgain(f"{self._server} answered {_said(error.smtp_code, error.smtp_error)}") from error
            except OSError as error:
                reason = f"no end within {self._deadline_seconds:g} s" if deadline.passed else error
                raise TryAgain(f"{self._server}: {reason}") from error

    def _connect(self, deadline: _Deadline) -> smtplib.SMTP:
        # A client greets with a name that exists (RFC 5321 section 4.1.4). This machine's own may exist nowhere else,
        # and asking the resolver for it may take seconds.
        greeting = self._sender.address.rpartition("@")[2]
        return _Connection(self._host, self._port, greeting, deadline, self._tls if self._from_the_start else None)

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        smtp.ehlo_or_helo_if_needed()
        if self._starttls:
            if not smtp.has_extn("starttls"):
                raise TryAgain(
                    f"{self._server} offers no STARTTLS, so nothing was sent to it: use smtps://, or ?tls=none on a"
                    " network you trust"
                )
            smtp.starttls(context=self._tls)
        if self._user:
            try:
                smtp.login(self._user, self._password)
            except smtplib.SMTPAuthenticationError as error:
                # Not the server's words, which may repeat the password.
                raise TryAgain(f"{self._server} refused the user name or the password ({error.smtp_code})") from None

    def _hand_over(self, smtp: smtplib.SMTP, recipient: str, content: bytes) -> None:
        size = f" SIZE={len(content)}" if smtp.has_extn("size") else ""
        code, words = smtp.docmd("MAIL", f"FROM:<{self._sender.address}>{size}")
        if code == _TOO_LARGE:
            raise Unprocessable(f"{self._server} takes no mail of {len(content)} bytes: {_said(code, words)}")
        if code // 100 != 2:
            # The sender is a setting: mails wait until it is right.
            raise TryAgain(f"{self._server} refused the sender {self._sender.address}: {_said(code, words)}")
        code, words = smtp.docmd("RCPT", f"TO:<{recipient}>")
        if code // 100 == 5:
            raise Unprocessable(f"the address {recipient} was refused by {self._server}: {_said(code, words)}")
        if code // 100 != 2:
            raise TryAgain(f"{self._server} takes nothing for {recipient} now: {_said(code, words)}")
        self._transfer(smtp, content)

    def _transfer(self, smtp: smtplib.SMTP, content: bytes) -> None:
        try:
            code, words = smtp.data(content)
            said = _said(code, words)
        except smtplib.SMTPDataError as error:
            code, said = error.smtp_code, _said(error.smtp_code, error.smtp_error)
        if code // 100 == 5:
            raise Unprocessable(f"{self._server} refused the mail: {said}")
        if code // 100 != 2:
            raise TryAgain(f"{self._server} did not take the mail: {said}")


class _Deadline:
    """Cuts a connection when its time is over, whatever the server does: a time-out of the socket itself would begin
    anew with each byte that comes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._cord: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._pull)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._cord is not None:
            self._cord.close()

    def watch(self, connection: socket.socket) -> None:
        self._cord = connection.dup()  # a handle of its own: TLS takes the first one over
        if self.passed:
            self._pull()

    def _pull(self) -> None:
        self.passed = True
        if self._cord is not None:
            with suppress(OSError):
                self._cord.shutdown(socket.SHUT_RDWR)


class _Connection(smtplib.SMTP):
    def __init__(self, host: str, port: int, greeting: str, deadline: _Deadline, tls: ssl.SSLContext | None) -> None:
        self._deadline = deadline
        self._tls = tls
        super().__init__(host, port, greeting, timeout=min(CONNECT_SECONDS, deadline.seconds))

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """Where smtplib lets its own SMTP_SSL make another kind of socket."""
        connection = socket.create_connection((host, port), timeout)
        self._deadline.watch(connection)
        connection.settimeout(None)
        return connection if self._tls is None else self._tls.wrap_socket(connection, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self.sock.makefile("rb"), self._deadline)
        return super().getreply()


class _Lines:
    """The server's lines, until the deadline. A connection that was cut still brings what the server goes on sending:
    only a pause ends it."""

    def __init__(self, file: BinaryIO, deadline: _Deadline) -> None:
        self._file = file
        self._deadline = deadline
        self.close = file.close

    def readline(self, limit: int) -> bytes:
        if self._deadline.passed:
            raise TimeoutError
        return self._file.readline(limit)


def _said(code: int, words: bytes | str) -> str:
    text = words if isinstance(words, str) else words.decode(errors="replace")
    return f"{code} {' '.join(text.split())}"
