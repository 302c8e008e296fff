"""Sending mail: over SMTP, or into a directory where no server is set.

At least once: a process that dies before it could record that a mail was accepted sends it again, under the same
Message-ID.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from billhook.outlets.mail.mime import Mail, compose, sender_of
from billhook.outlets.mail.smtp import SmtpMailer
from billhook.outlets.objects import DirectoryObjects, ObjectDiffers

log = logging.getLogger(__name__)


class Mailer(Protocol):
    def send(self, mail: Mail) -> None:
        """Return once the mail was accepted. Raises `Unprocessable`, with the server's words, where it was refused for
        good, and `TryAgain` where it was not accepted this time."""


def open_mailer(url: str, sender: str) -> Mailer:
    """What a URL names; nothing is opened yet. `sender` is an address or `name <address>`. Raises `SettingsError`,
    which never repeats the URL: there may be a password in it.

    `file:///var/lib/billhook/mail` is a directory. `smtp://user:password@host:587` speaks TLS after STARTTLS, and with
    `?tls=none` (a relay on the same machine) not at all; `smtps://user:password@host:465` speaks TLS from the start.
    """
    if url.startswith("file:///") and url != "file:///":
        return FolderMailer(Path(unquote(url.removeprefix("file://"))), sender)
    return SmtpMailer(url, sender)


class FolderMailer:
    """Mails as files, `<id>.eml`, to be looked at; nobody gets them."""

    def __init__(self, directory: Path, sender: str) -> None:
        self._files = DirectoryObjects(directory)
        self._sender = sender_of(sender)

    def send(self, mail: Mail) -> None:
        content = compose(mail, self._sender)
        name = mail.message_id[1:].partition("@")[0]
        # An earlier attempt may have written it, with another boundary between its parts.
        with suppress(ObjectDiffers):
            self._files.put_once(f"{name}.eml", content)
        log.info("mail written, not sent", extra={"mail": name})
