"""A mail as bytes: every name and text comes out as it went in, and no text becomes a header."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.errors import Unprocessable
from billhook.outlets.mail.mime import File, Mail, Mailbox, compose, mailbox, recipient

SENDER = Mailbox("", "billing@acme.test")
MAIL = Mail("<mail_1@billhook>", datetime(2026, 11, 21, 11, 30, tzinfo=UTC), "ada@customer.test", "Hello", "Hello\n")
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"]

one_line = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))
awkward = st.lists(
    st.sampled_from(
        [
            *("é" * 70, "日本語" * 20, "😀" * 20, "x" * 120, "plain", "a,b", "(c)", "<d@e.test>", '"', "\\", "=?"),
            *("=?utf-8?q?a=0D=0ABcc:_all@customer.test?=", "=?utf-8?b?DQpCY2M6IGE=?="),
        ]
    ),
    max_size=30,
).map(" ".join)
free_text = (one_line | awkward).map(str.strip)


def sent(**changed: object) -> Message:
    """The mail as another reader than ours sees it, after what must hold of all mails was looked at."""
    content = compose(replace(MAIL, **changed), SENDER)
    assert content.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)
    assert max(map(len, content.split(b"\r\n"))) <= 998  # RFC 5322 section 2.1.1
    mail = message_from_bytes(content)
    assert mail.keys()[: len(HEADERS)] == HEADERS
    assert {*mail.keys()[len(HEADERS) :]} <= {"Content-Type", "Content-Transfer-Encoding", "MIME-Version"}
    return mail


def decoded(header: str) -> str:
    return str(make_header(decode_header(header.replace("\r\n", ""))))


@given(free_text)
def test_any_subject_arrives_as_it_was_written(subject: str) -> None:
    assert decoded(sent(subject=subject)["Subject"]) == subject


@given(free_text)
def test_any_name_arrives_before_the_one_address(name: str) -> None:
    quoted = re.sub(r'(["\\])', r"\\\1", name)
    mail = sent(recipient=f'"{quoted}" <ada@customer.test>')
    [(written, address)] = getaddresses([mail["To"].replace("\r\n", "")])
    assert (decoded(written), address) == (name, "ada@customer.test")


@given(free_text)
def test_any_name_of_a_file_is_a_name_and_no_header(name: str) -> None:
    _, file = sent(attachments=(File(name, "application/pdf", b"%PDF"),)).get_payload()
    assert isinstance(file, Message)
    assert file.get_payload(decode=True) == b"%PDF"
    assert {*file.keys()} == {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "MIME-Version"}
    written = file.get_filename() or ""
    assert len(written) == len(name)
    assert all(there == "_" or there == meant for there, meant in zip(written, name, strict=True))


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_arrives_line_by_line(text: str) -> None:
    payload = sent(text=text).get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert lines(payload.decode()) == lines(text)


def lines(text: str) -> list[str]:
    """As mail knows them: what Python takes for the end of a line besides is text."""
    found = re.split("\r\n|\r|\n", text)
    return found if found[-1] or len(found) == 1 else found[:-1]


@pytest.mark.parametrize(
    "text, name, address",
    [
        ("ada@customer.test", "", "ada@customer.test"),
        ("  <ada@customer.test> ", "", "ada@customer.test"),
        ("Ada Lovelace <ada@customer.test>", "Ada Lovelace", "ada@customer.test"),
        ("Lovelace, Ada (Countess) <ada@customer.test>", "Lovelace, Ada (Countess)", "ada@customer.test"),
        (r'"Ada \"the\" first" <ada@customer.test>', 'Ada "the" first', "ada@customer.test"),
        ("eve@evil.test <ada@customer.test>", "eve@evil.test", "ada@customer.test"),
        ("<eve@evil.test> <ada@customer.test>", "<eve@evil.test>", "ada@customer.test"),
        ("o'brien+bills@sub.customer.test", "", "o'brien+bills@sub.customer.test"),
        ("ada@bücher.test", "", "ada@xn--bcher-kva.test"),
        ("root@localhost", "", "root@localhost"),
    ],
)
def test_a_mailbox_is_an_address_with_or_without_a_name(text: str, name: str, address: str) -> None:
    assert mailbox(text) == Mailbox(name, address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "ada", "@customer.test", "ada@", "ada@-x.test", "ada@a..test", "a b@customer.test", "ada@customer.test>"),
        *("ada@customer.test, eve@evil.test", "a@b@c.test", "zoë@customer.test", "ada@[127.0.0.1]", "Ada <>"),
        *("ada@customer.test\r\n", "A\nB <ada@customer.test>", "A\u2028B <ada@customer.test>", "a\0@customer.test"),
        *("a" * 65 + "@customer.test", "ada@" + "a" * 64 + ".test", "ada@" + "a.b" * 99, "ada@customer.test <"),
    ],
)
def test_anything_else_is_no_mailbox(text: str) -> None:
    with pytest.raises(Unprocessable, match="address"):
        mailbox(text)


@pytest.mark.parametrize(
    "text", ["root@localhost", "ada@intranet", "ada@a.invalid", "Ada <ada@b.LOCALHOST>", "ada@10.0.0.1", "a b@c.com"]
)
def test_nobody_is_to_get_a_mail_that_cannot_arrive(text: str) -> None:
    with pytest.raises(Unprocessable):
        recipient(text)


@pytest.mark.parametrize("text", ["ada@customer.test", "Ada <ada@customer.example>", "zoe@müller.de"])
def test_what_may_arrive_is_tried(text: str) -> None:
    assert recipient(text) == mailbox(text)


@pytest.mark.parametrize("char", ["\r", "\n", "\0", "\x0b", "\x85", "\u2028", "\ud800"])
def test_a_subject_is_one_line(char: str) -> None:
    with pytest.raises(Unprocessable, match="the subject has a line break"):
        sent(subject=f"Hello{char}Bcc: all@customer.test")


def test_a_mail_goes_out_in_a_name_answers_go_elsewhere_and_the_text_comes_twice() -> None:
    file = File("a.pdf", "application/pdf", b"%PDF")
    content = compose(
        replace(
            MAIL,
            sender_name="Harbor & Söhne",
            reply_to="a@b.test",
            html="<p>Grüße</p>",
            attachments=(file,),
        ),
        Mailbox("billhook", "billing@acme.test"),
    )
    mail = message_from_bytes(content, policy=policy.default)
    assert (str(mail["From"]), mail["Reply-To"]) == ("Harbor & Söhne <billing@acme.test>", "a@b.test")
    assert [part.get_content_type() for part in mail.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "application/pdf",
    ]
    assert mail.get_body(("html",)).get_content() == "<p>Grüße</p>\r\n"
    assert content.isascii()
