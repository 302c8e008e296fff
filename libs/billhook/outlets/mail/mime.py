"""A mail as the bytes that are sent: RFC 5322 and MIME, 7-bit clean, whatever the names and texts in it are.

The headers that hold free text are written here. The standard library's `EmailMessage` decodes what looks like an
encoded word before it writes it, line breaks and all (CVE-2024-6923), and loses spaces between long ones.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final, NamedTuple, TypeGuard

from billhook.errors import SettingsError, Unprocessable

# Not every server on the way takes 8-bit text (RFC 6152), and one that must recode it breaks signatures.
_POLICY: Final = SMTP.clone(cte_type="7bit")

_LINE: Final = 78
"""Characters of a line that no reader has to break (RFC 5322 section 2.1.1)."""

_MESSAGE_ID: Final = re.compile(r"<[A-Za-z0-9_-]+@[A-Za-z0-9.-]+>")
_MEDIA_TYPE: Final = re.compile(r"([a-z0-9.+-]+)/([a-z0-9.+-]+)")
_MAILBOX: Final = re.compile(r'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<name>.*?))\s*<(?P<address>[^<>]*)>')

# What HTML's <input type=email> takes (RFC 5322 without its comments and quotes), in the lengths of RFC 5321.
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rf"(?=.{{3,254}}\Z)[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})*")

_NOWHERE: Final = frozenset(("invalid", "localhost", "local", "internal", "onion"))
"""No public server takes mail below these (RFC 2606, RFC 6761, RFC 6762, RFC 7686, ICANN's `internal`)."""

_CONTROLS: Final = ("Cc", "Cs", "Zl", "Zp")
_NOT_IN_FILE_NAMES: Final = frozenset('/\\:*?"<>|')


class File(NamedTuple):
    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    message_id: str
    """`<…@…>`, the same whenever this mail is sent: receivers know it again by it. What is sent has the sender's domain
    in it, since filters mistrust one that exists nowhere."""
    date: datetime
    recipient: str
    """An address, or `name <address>`."""
    subject: str
    text: str
    attachments: tuple[File, ...] = ()
    html: str | None = None
    """The same once more, for readers that show it."""
    sender_name: str | None = None
    """In whose name it goes out, before the sender's address; None is as the setting says."""
    reply_to: str | None = None


class Mailbox(NamedTuple):
    name: str
    address: str


def mailbox(text: str) -> Mailbox:
    """The one mailbox that a text names; raises `Unprocessable` for anything else.

    The last `<…>` is the address, so a name that imitates one is only a name. A domain beyond ASCII is encoded; an
    address that is beyond ASCII before its @ would need SMTPUTF8 all the way, and is refused.
    """
    line = _one_line("an address", text)
    found = _MAILBOX.fullmatch(line)
    name, address = ("", line) if found is None else (found["name"] or "", found["address"].strip())
    if found is not None and found["quoted"] is not None:
        name = re.sub(r"\\(.)", r"\1", found["quoted"])
    local, at, domain = address.rpartition("@")
    try:
        address = local + at + domain.encode("idna").decode()
    except UnicodeError:
        address = ""
    if not _ADDRESS.fullmatch(address):
        raise Unprocessable(f"{text!r} is no address that mail can be sent to; correct it")
    return Mailbox(name.strip(), address)


def recipient(text: str) -> Mailbox:
    """A mailbox that a mail may reach; raises `Unprocessable` for another. `.test` and `.example` are left to those who
    try billhook out."""
    box = mailbox(text)
    _, dot, last = box.address.rpartition("@")[2].rpartition(".")
    if not dot or last.isdigit() or last.lower() in _NOWHERE:
        raise Unprocessable(f"no mail can reach {text!r}: its domain is on no public network; correct it")
    return box


def can_be_reached(text: str | None) -> TypeGuard[str]:
    try:
        recipient(text or "")
    except Unprocessable:
        return False
    return True


def sender_of(text: str) -> Mailbox:
    """The mailbox in a setting."""
    try:
        return mailbox(text)
    except Unprocessable as error:
        raise SettingsError(f"mail: the sender: {error}") from None


def compose(mail: Mail, sender: Mailbox) -> bytes:
    """The whole mail, lines ending in CR LF. Raises `Unprocessable` for what may not stand in a mail."""
    if not _MESSAGE_ID.fullmatch(mail.message_id):
        raise Unprocessable(f"{mail.message_id!r} is no Message-ID")
    name = sender.name if mail.sender_name is None else _one_line("the sender's name", mail.sender_name)
    headers = {
        "From": _written(Mailbox(name, sender.address), len("From: ")),
        "To": _written(mailbox(mail.recipient), len("To: ")),
        "Subject": _encoded(_one_line("the subject", mail.subject), len("Subject: ")),
        "Date": format_datetime(mail.date),
        "Message-ID": f"{mail.message_id.partition('@')[0]}@{sender.address.rpartition('@')[2]}>",
        # RFC 3834: no out-of-office reply to a mail that a program sent.
        "Auto-Submitted": "auto-generated",
    }
    if mail.reply_to:
        headers["Reply-To"] = _written(mailbox(mail.reply_to), len("Reply-To: "))
    body = EmailMessage(_POLICY)
    body.set_content(mail.text)
    if mail.html:
        body.add_alternative(mail.html, subtype="html")
    for file in mail.attachments:
        media_type = _MEDIA_TYPE.fullmatch(file.media_type)
        if media_type is None:
            raise Unprocessable(f"{file.media_type!r} is no media type of a file")
        body.add_attachment(file.content, *media_type.groups(), filename=_file_name(file.name))
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii") + body.as_bytes()


def _written(box: Mailbox, taken: int) -> str:
    if not box.name:
        return box.address
    name = _encoded(box.name, taken + 2)
    if name == box.name:
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return f"{name}\r\n <{box.address}>"


def _encoded(text: str, taken: int) -> str:
    """Text for a header, as it is or in encoded words (RFC 2047). `taken`: how many characters of its first line are
    used up."""
    if text.isascii() and "=?" not in text and taken + len(text) <= _LINE:
        return text
    return Header(text, "utf-8", maxlinelen=_LINE - taken).encode(linesep="\r\n")


def header_text(text: str) -> str:
    """A text that somebody else wrote as one line that may stand in a header."""
    return " ".join("".join(" " if unicodedata.category(char) in _CONTROLS else char for char in text).split())


def _one_line(what: str, text: str) -> str:
    """Refuse what could end a header's line, here or wherever it is decoded."""
    if any(unicodedata.category(char) in _CONTROLS for char in text):
        raise Unprocessable(f"{what} has a line break or another control character in it: {text!r}")
    return text.strip()


def _file_name(name: str) -> str:
    """A name that every system can store, and that is no encoded word."""
    return "".join(char if char.isprintable() and char not in _NOT_IN_FILE_NAMES else "_" for char in name)
