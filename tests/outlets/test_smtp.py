"""The conversation with a mail server: who answers for a mail after it, and what the errors say."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trustme
from outlets.mail_server import DROP, HANG, PASSWORD, USER, MailServer, mail_server

from billhook.errors import TryAgain, Unprocessable
from billhook.outlets.mail.mime import File, Mail
from billhook.outlets.mail.smtp import SmtpMailer

SENDER = "billing@acme.test"
MAIL = Mail("<mail_1@billhook>", datetime(2026, 11, 21, tzinfo=UTC), "ada@customer.test", "Hello", "Hello\n")
LARGE = replace(MAIL, attachments=(File("large.bin", "application/octet-stream", bytes(3_000_000)),))
LOGIN = f"{USER.replace('@', '%40')}:{PASSWORD.replace('/', '%2F')}@"


def mailer(port: int, *, login: str = "", deadline_seconds: float = 60.0) -> SmtpMailer:
    return SmtpMailer(f"smtp://{login}127.0.0.1:{port}?tls=none", SENDER, deadline_seconds=deadline_seconds)


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("answer", ["451 4.7.1 come back later", "421 4.3.2 closing", DROP])
def test_what_is_not_taken_now_is_tried_again_and_then_arrives(server: MailServer, command: str, answer: str) -> None:
    server.answers[command] = [answer]
    with pytest.raises(TryAgain, match=f"127.0.0.1:{server.port}.*(?:{answer}|closed|reset)"):
        mailer(server.port).send(MAIL)
    assert server.arrived == []
    mailer(server.port).send(MAIL)
    assert [one.recipient for one in server.arrived] == ["ada@customer.test"]


def test_an_address_that_is_refused_is_refused_for_good_in_the_servers_words(server: MailServer) -> None:
    server.answers["RCPT"] = ["550-5.1.1 There is no\r\n550 5.1.1   Ada here"]
    with pytest.raises(Unprocessable) as raised:
        mailer(server.port).send(MAIL)
    assert str(raised.value) == (
        f"the address ada@customer.test was refused by the mail server 127.0.0.1:{server.port}:"
        " 550 5.1.1 There is no 5.1.1 Ada here"
    )
    assert server.commands == ["MAIL", "RCPT", "QUIT"]


def test_a_mail_that_is_refused_is_refused_for_good_in_the_servers_words(server: MailServer) -> None:
    server.answers["DATA"] = ["554 5.7.1 looks like spam"]
    with pytest.raises(Unprocessable, match=r"refused the mail: 554 5\.7\.1 looks like spam"):
        mailer(server.port).send(MAIL)


def test_a_mail_that_is_too_large_for_the_server_is_not_even_begun() -> None:
    with mail_server(data_size_limit=1_000_000) as server:
        with pytest.raises(Unprocessable, match=r"takes no mail of \d{7} bytes: 552"):
            mailer(server.port).send(LARGE)
        assert server.commands == ["QUIT"]
    with mail_server(data_size_limit=10_000_000) as server:
        mailer(server.port).send(LARGE)
        assert len(server.arrived) == 1


def test_a_sender_that_is_refused_is_a_setting_to_correct_and_mails_wait(server: MailServer) -> None:
    server.answers["MAIL"] = ["553 5.7.1 not your address"]
    with pytest.raises(TryAgain, match=r"refused the sender billing@acme\.test: 553 5\.7\.1 not your address"):
        mailer(server.port).send(MAIL)


@pytest.mark.parametrize("answer", ["500 what?", DROP])
def test_once_a_mail_is_taken_a_bad_goodbye_changes_nothing(server: MailServer, answer: str) -> None:
    server.answers["QUIT"] = [answer]
    mailer(server.port).send(MAIL)
    assert len(server.arrived) == 1


def test_without_starttls_neither_the_password_nor_the_mail_is_sent() -> None:
    with mail_server() as server:  # one that takes passwords in the clear
        with pytest.raises(TryAgain, match="offers no STARTTLS, so nothing was sent"):
            SmtpMailer(f"smtp://{LOGIN}127.0.0.1:{server.port}", SENDER).send(MAIL)
        assert server.commands == ["QUIT"]


@pytest.mark.parametrize("scheme, how", [("smtp", "starttls"), ("smtps", "tls")])
def test_a_server_that_cannot_prove_its_name_gets_nothing(authority: trustme.CA, scheme: str, how: str) -> None:
    for context, tls in [
        (certified(authority), None),  # by an authority that nobody knows
        (certified(authority, "other.test"), trusting(authority)),
    ]:
        with mail_server(**{how: context}) as server:
            with pytest.raises(TryAgain, match="certificate verify failed"):
                SmtpMailer(f"{scheme}://{LOGIN}127.0.0.1:{server.port}", SENDER, tls=tls).send(MAIL)
            assert server.commands == []


def test_a_password_that_is_refused_is_a_setting_to_correct_and_is_not_repeated(server: MailServer) -> None:
    with pytest.raises(TryAgain, match=r"refused the user name or the password \(535\)"):
        mailer(server.port, login="ada:hunter2@").send(MAIL)
    server.answers["AUTH"] = ["501 5.5.2 cannot read: hunter2"] * 3
    with pytest.raises(TryAgain, match=r"\(501\)") as raised:
        mailer(server.port, login="ada:hunter2@").send(MAIL)
    assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_server_that_wants_a_password_and_gets_none_is_a_setting_to_correct() -> None:
    with mail_server(auth_required=True, auth_require_tls=True) as server:
        with pytest.raises(TryAgain, match=r"530 5\.7\.0 Authentication required"):
            mailer(server.port).send(MAIL)
        assert server.arrived == []


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_a_server_that_hangs_is_left(server: MailServer, command: str) -> None:
    server.answers[command] = [HANG]
    with pytest.raises(TryAgain, match=r"no end within 0\.3 s"):
        mailer(server.port, deadline_seconds=0.3).send(MAIL)
    server.answers.clear()
    mailer(server.port).send(MAIL)
    assert len(server.arrived) == 1


def test_a_server_that_hangs_in_the_tls_handshake_is_left(authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtps://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TryAgain, match=r"no end within 0\.3 s"):
            SmtpMailer(url, SENDER, tls=trusting(authority), deadline_seconds=0.3).send(MAIL)


def test_a_server_that_never_stops_talking_is_left() -> None:
    with talking(b"220-welcome\r\n") as port, pytest.raises(TryAgain, match=r"no end within 0\.3 s"):
        mailer(port, deadline_seconds=0.3).send(MAIL)


@pytest.mark.parametrize("words", [b"554 5.7.1 not you\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"x" * 10_000])
def test_a_server_that_is_none_or_does_not_want_us_is_tried_again(words: bytes) -> None:
    with talking(words) as port, pytest.raises(TryAgain, match=f"the mail server 127.0.0.1:{port}"):
        mailer(port).send(MAIL)


def test_nobody_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TryAgain, match=f"the mail server 127.0.0.1:{port}: .*refused"):
        mailer(port).send(MAIL)


@contextmanager
def talking(words: bytes) -> Iterator[int]:
    """Somebody who says the same again and again to one caller, until the caller leaves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            caller, _ = listening.accept()
            with caller:
                try:
                    while True:
                        caller.sendall(words)
                except OSError:
                    pass

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()
