"""Mailing: a claimed mail gets its files from the object store and is handed to the mailer.

At least once: after a crash between sending and settling a mail goes out again. It has the same Message-ID then, by
which a receiver can tell that it is no second one. A mail that is given up is told to the merchant's endpoints, in the
transaction that gives it up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.events import MailNews
from billhook.outlets.mail.mailer import Mailer
from billhook.outlets.mail.mime import File, Mail
from billhook.outlets.objects import Objects
from billhook.queue.handler import Rings
from billhook.rules.retry import MAX_ATTEMPTS, Dead, Defer, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.store.database import Tx
from billhook.store.deliveries import address
from billhook.store.mails import Attachment, mails, next_turn
from billhook.store.messages import Message, add_messages
from billhook.store.work import Row

ASK_AGAIN: Final = timedelta(minutes=15)
"""The least that a mail over its merchant's limit waits: each of thousands asks anew when its time has come."""


@dataclass(frozen=True, slots=True)
class MailJob:
    """One claimed mail."""

    id: str
    merchant_id: str
    attempts: int
    mail: Mail
    """Still without its files: no transaction waits for the object store."""
    attachments: tuple[Attachment, ...]
    about: str
    turn: datetime | None
    """When its merchant may mail again, where that is not now."""
    traceparent: str | None


Result = tuple[MailJob, Outcome, None]


class Mailing:
    """The handler of the mails."""

    table: sa.Table = mails
    # One by one: what was sent is settled at once, so that a crash repeats one mail and not a whole batch of them. A
    # conversation with a mail server takes many times as long as the two transactions around it.
    batch = 1
    lease = timedelta(seconds=60)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, mailer: Mailer, objects: Objects, clock: Clock, a_day: int) -> None:
        """`a_day`: how many mails may go out for a merchant."""
        self._mailer = mailer
        self._objects = objects
        self._clock = clock
        self._a_day = a_day

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[MailJob]:
        return [_job(row, self._turn(tx, row)) for row in rows]

    def _turn(self, tx: Tx, row: Row) -> datetime | None:
        # What billhook itself has to tell a merchant is never held up.
        return None if row["sender_name"] is None else next_turn(tx, row["merchant_id"], self._a_day, self._clock())

    def perform(self, jobs: Sequence[MailJob]) -> Sequence[Result]:
        return [(job, self._send(job), None) for job in jobs]

    def _send(self, job: MailJob) -> Outcome:
        if job.turn is not None:
            at = max(job.turn, self._clock() + ASK_AGAIN)
            return Defer(at, f"the merchant's limit of {self._a_day} mails in 24 hours is reached: it goes out later")
        try:
            files = tuple(
                File(file.name, file.media_type, self._objects.get(file.key, file.sha256)) for file in job.attachments
            )
            self._mailer.send(replace(job.mail, attachments=files))
        except Exception as error:
            return after_failure(error, attempts=job.attempts, now=self._clock(), jitter=random.random())
        return Done("sent")

    def about(self, job: MailJob, _: None) -> dict[str, Any]:
        return {"about": job.about}

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        refused = [_refused(job, outcome.reason, now) for job, outcome, _ in results if isinstance(outcome, Dead)]
        return {"deliveries": address(tx, add_messages(tx, refused, now), now)}


def _refused(job: MailJob, reason: str, now: datetime) -> Message:
    news = MailNews(
        id=job.id,
        recipient=job.mail.recipient,
        subject=job.mail.subject,
        about=job.about,
        reason=reason,
    )
    body = msgspec.json.encode({"type": "mail.refused", "timestamp": now, "data": news})
    return Message.own(job.merchant_id, "mail.refused", "mail", job.id, body, now, traceparent=job.traceparent)


def _job(row: Row, turn: datetime | None) -> MailJob:
    mail = Mail(
        row["message_id"],
        row["created_at"],  # however late it goes: all attempts are the same mail
        row["recipient"],
        row["subject"],
        row["body"],
        html=row["html"],
        sender_name=row["sender_name"],
        reply_to=row["reply_to"],
    )
    attachments = tuple(Attachment(**attachment) for attachment in row["attachments"])
    of_row = (row["id"], row["merchant_id"], row["attempts"])
    return MailJob(*of_row, mail, attachments, row["about"], turn, row["traceparent"])
