"""Mail: whichever way it goes, what arrives is what was written, and nothing else."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from outlets.mail_server import PASSWORD, USER, mail_server

from billhook.errors import SettingsError, TryAgain, Unprocessable
from billhook.outlets.mail.mailer import FolderMailer, Mailer, open_mailer
from billhook.outlets.mail.mime import File, Mail
from billhook.outlets.mail.smtp import SmtpMailer

SENDER = "Acme Billing <billing@acme.test>"
MAIL = Mail(
    "<mail_0199@billhook>",
    datetime(2026, 11, 21, 11, 30, tzinfo=UTC),
    "ada@customer.test",
    "Your invoice ACME-2026-0042",
    "Hello Ada,\n\nhere is your invoice.\n",
    (File("invoice.pdf", "application/pdf", bytes(range(256)) * 40),),
)


@dataclass(frozen=True)
class Way:
    """A mailer, and a look at what it sent."""

    mailer: Mailer
    arrived: Callable[[], list[bytes]]

    def only(self) -> EmailMessage:
        [content] = self.arrived()
        return read(content)


def read(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body()
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@pytest.fixture(params=["folder", "plain", "starttls", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    directory = tmp_path / "var" / "mail"
    if request.param == "folder":
        mailer = open_mailer(directory.as_uri(), SENDER)
        yield Way(mailer, lambda: [path.read_bytes() for path in directory.glob("*.eml")])
        return
    authority = trustme.CA()
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(here)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    options: dict[str, Any] = {
        "plain": {},
        "starttls": {"starttls": here, "require_starttls": True},
        "tls": {"tls": here},
    }
    url = {"plain": "smtp://{}?tls=none", "starttls": "smtp://{}", "tls": "smtps://{}"}
    with mail_server(**options[request.param]) as server:
        there = url[request.param].format(f"{USER.replace('@', '%40')}:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{{}}")
        mailer = SmtpMailer(there.format(server.port), SENDER, tls=trusting)
        yield Way(mailer, lambda: [one.content for one in server.arrived])
        for one in server.arrived:
            assert (one.sender, one.user) == ("billing@acme.test", USER)
            assert one.encrypted == (request.param != "plain")


def test_what_was_written_arrives(way: Way) -> None:
    way.mailer.send(MAIL)
    mail = way.only()
    assert mail["To"] == "ada@customer.test"
    assert mail["From"].addresses[0].display_name == "Acme Billing"
    assert mail["Subject"] == MAIL.subject
    assert mail["Message-ID"] == "<mail_0199@acme.test>", "in the domain of From"
    assert mail["Date"].datetime == MAIL.date
    assert mail["Auto-Submitted"] == "auto-generated"
    assert text_of(mail) == MAIL.text
    [attachment] = mail.iter_attachments()
    assert attachment.get_filename() == "invoice.pdf"
    assert attachment.get_content_type() == "application/pdf"
    assert attachment.get_content() == MAIL.attachments[0].content


def test_a_mail_without_files_is_plain_text(way: Way) -> None:
    way.mailer.send(replace(MAIL, attachments=()))
    assert way.only().get_content_type() == "text/plain"
    assert text_of(way.only()) == MAIL.text


def test_all_languages_arrive(way: Way) -> None:
    way.mailer.send(
        replace(
            MAIL,
            recipient="Zoë Müller, 株式会社 山田 <zoe@müller.test>",
            subject="Rechnung für März 🧾 — 請求書",
            text="Grüße, ありがとうございます\nжелаем удачи\n",
            attachments=(File("Rechnung März 請求書.pdf", "application/pdf", b"%PDF"),),
        )
    )
    mail = way.only()
    [to] = mail["To"].addresses
    assert (to.display_name, to.addr_spec) == ("Zoë Müller, 株式会社 山田", "zoe@xn--mller-kva.test")
    assert mail["Subject"] == "Rechnung für März 🧾 — 請求書"
    assert text_of(mail) == "Grüße, ありがとうございます\nжелаем удачи\n"
    assert [part.get_filename() for part in mail.iter_attachments()] == ["Rechnung März 請求書.pdf"]


def test_lines_that_mean_something_to_mail_are_only_text(way: Way) -> None:
    text = f".\n..\nFrom here on\nQUIT\n\n{'a long line ' * 200}\n.\n"
    way.mailer.send(replace(MAIL, text=text, attachments=()))
    assert text_of(way.only()) == text


def test_a_mail_that_is_sent_again_is_the_same_mail(way: Way) -> None:
    way.mailer.send(MAIL)
    way.mailer.send(MAIL)
    assert {(read(content)["Message-ID"], read(content)["Date"]) for content in way.arrived()} == {
        ("<mail_0199@acme.test>", "Sat, 21 Nov 2026 11:30:00 +0000")
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "Hello\r\nBcc: all@customer.test"},
        {"recipient": "ada@customer.test\r\nRCPT TO:<all@customer.test>"},
        {"recipient": "Ada\n <all@customer.test>"},
        {"recipient": "ada@customer.test, all@customer.test"},
        {"recipient": "zoë@customer.test"},
        {"recipient": "ada"},
        {"recipient": ""},
        {"message_id": "<../mail@billhook>"},
        {"attachments": (File("x", "application/pdf\r\nX-Y: z", b""),)},
    ],
)
def test_what_may_not_stand_in_a_mail_is_refused_for_good(way: Way, changed: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable):
        way.mailer.send(replace(MAIL, **changed))
    assert way.arrived() == []


def test_a_folder_that_cannot_be_written_to_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file where the directory should be")
    with pytest.raises(TryAgain, match=r"could not store mail_0199\.eml"):
        FolderMailer(tmp_path / "mail", SENDER).send(MAIL)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail",
        "file:///",
        "file://relative/path",
        "http://user:hunter2@mail.test",
        "smtp://",
        "smtp://user:hunter2@",
        "smtp://user:hun/ter2@mail.test",
        "smtp://user:1/hunter2@mail.test",
        "smtp://user:hunter2@mail.test:port",
        "smtp://user:hunter2@mail.test/inbox",
        "smtp://user:hunter2@mail.test#there",
        "smtp://user:hunter2@[mail.test",
        "smtp://user:hunter2é@mail.test",
        "smtp://hunter2@mail.test",
        "smtp://user:hunter2@mail.test?tls=maybe",
        "smtps://user:hunter2@mail.test?tls=none",
    ],
)
def test_an_address_that_cannot_work_is_a_setting_to_correct_and_no_password_is_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="mail: ") as raised:
        open_mailer(url, SENDER)
    assert "ter2" not in str(raised.value)


@pytest.mark.parametrize("sender", ["", "billhook", "a@b.test, c@d.test", "A\r\nB <a@b.test>"])
@pytest.mark.parametrize("url", ["file:///var/mail", "smtp://mail.test"])
def test_a_sender_that_cannot_work_is_a_setting_to_correct(url: str, sender: str) -> None:
    with pytest.raises(SettingsError, match="mail: the sender"):
        open_mailer(url, sender)
