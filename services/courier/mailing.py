"""Mailing: a claimed mail gets its files from the object store and is handed to the mailer.

At least once: after a crash between sending and settling a mail goes out again. It has the same Message-ID then, by
which a receiver can tell that it is no second one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from billhook.outlets.mail import Mailer
from billhook.outlets.mime import File, Mail
from billhook.outlets.objects import Objects
from billhook.queue.consumer import Rings
from billhook.rules.retry import MAX_ATTEMPTS, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.store.database import Tx
from billhook.store.mails import Attachment, mails
from billhook.store.work import Row


@dataclass(frozen=True, slots=True)
class Envelope:
    """One claimed mail."""

    id: str
    merchant_id: str
    attempts: int
    mail: Mail
    """Still without its files: no transaction waits for the object store."""
    attachments: tuple[Attachment, ...]


Result = tuple[Envelope, Outcome, None]


class Mailing:
    """The handler of the mails."""

    table: sa.Table = mails
    # One by one: what was sent is settled at once, so that a crash repeats one mail and not a whole batch of them. A
    # conversation with a mail server takes many times as long as the two transactions around it.
    batch = 1
    lease = timedelta(seconds=60)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, mailer: Mailer, objects: Objects, clock: Clock) -> None:
        self._mailer = mailer
        self._objects = objects
        self._clock = clock

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Envelope]:
        return [_envelope(row) for row in rows]

    def perform(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        return [(envelope, self._send(envelope), None) for envelope in envelopes]

    def _send(self, envelope: Envelope) -> Outcome:
        try:
            files = tuple(
                File(file.name, file.media_type, self._objects.get(file.key, file.sha256))
                for file in envelope.attachments
            )
            self._mailer.send(replace(envelope.mail, attachments=files))
        except Exception as error:
            return after_failure(error, attempts=envelope.attempts, now=self._clock(), jitter=random.random())
        return Done("sent")

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        return {}


def _envelope(row: Row) -> Envelope:
    # Dated when it was written, however late it goes: all attempts are the same mail.
    mail = Mail(row["message_id"], row["created_at"], row["recipient"], row["subject"], row["body"])
    attachments = tuple(Attachment(**attachment) for attachment in row["attachments"])
    return Envelope(row["id"], row["merchant_id"], row["attempts"], mail, attachments)
