"""Mails: what people are told by e-mail, each once, written in the transaction of what it is about.

A mail ends as `sent`, or as `dead` with a dead letter: given up, or refused for good (the reason holds the server's
words, also where it was the address that was refused).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from billhook.store.bulk import among
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, id_at, merchant_column, metadata, new_id, trace_column
from billhook.store.work import DUE, due_index, work_columns

DAY: Final = timedelta(days=1)

mails = sa.Table(
    "mails",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("recipient", sa.Text, nullable=False),  # address, or name <address>
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # text/plain
    sa.Column("html", sa.Text),  # the same once more
    sa.Column("sender_name", sa.Text),  # the merchant it goes out for; none: billhook itself writes to a merchant
    sa.Column("reply_to", sa.Text),
    sa.Column("attachments", sa.JSON, nullable=False),  # the fields of `Attachment`, a list
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),  # the header's value, the same over all attempts
    sa.Column("created_at", Instant, nullable=False),
    trace_column(),
    *work_columns(),
    due_index("mails"),
    # One mail for each (merchant, about), however often it is asked for.
    sa.UniqueConstraint("merchant_id", "about"),
    sa.Index("ix_mails_merchant_id", "merchant_id", "id"),
    sa.Index("ix_mails_finished_at", "merchant_id", "finished_at"),
)


@dataclass(frozen=True)
class Attachment:
    """A file in the object store, and what it is called in the mail."""

    name: str
    media_type: str
    key: str
    sha256: str
    """What `key` must hold: a file that was damaged is not sent."""


@dataclass(frozen=True)
class NewMail:
    merchant_id: str
    about: str
    """What the mail is about, e.g. `endpoint.disabled:ep_…:2026-11-21T11:30Z`: a merchant gets one mail about it."""
    recipient: str
    subject: str
    body: str
    attachments: tuple[Attachment, ...] = ()
    html: str | None = None
    sender_name: str | None = None
    """Of the merchant in whose name it goes out. Those mails are counted (`next_turn`)."""
    reply_to: str | None = None
    traceparent: str | None = None


def add_mails(tx: Tx, new: Sequence[NewMail], now: datetime) -> list[str]:
    """Add mails; what was written about already stays as it is. Returns the ids of the new ones, to ring for."""
    if not new:
        return []
    first = {(mail.merchant_id, mail.about): mail for mail in reversed(new)}
    rows = [_row(first[key], now) for key in sorted(first)]  # one order of locks for all writers
    statement = insert_into(tx, mails).on_conflict_do_nothing().returning(mails.c.id)
    return list(tx.execute(statement, rows).scalars())


def _row(mail: NewMail, now: datetime) -> dict[str, Any]:
    mail_id = new_id("mail")
    return {
        "id": mail_id,
        "message_id": f"<{mail_id}@billhook>",
        "created_at": now,
        "due_at": now,
        **vars(mail),
        "attachments": [vars(attachment) for attachment in mail.attachments],
    }


def written(tx: Tx, merchant_id: str, about: Collection[str]) -> set[str]:
    """What of this a mail was written about already."""
    query = sa.select(mails.c.about).where(mails.c.merchant_id == merchant_id, among(tx, mails.c.about, about))
    return set(tx.execute(query).scalars())


def next_turn(tx: Tx, merchant_id: str, a_day: int, now: datetime) -> datetime | None:
    """When the next mail may go out for a merchant, so that in no 24 hours there are more than `a_day`; None is now."""
    c = mails.c
    sent = sa.and_(
        c.merchant_id == merchant_id, c.state == "sent", c.sender_name.is_not(None), c.finished_at > now - DAY
    )
    query = sa.select(c.finished_at).where(sent).order_by(c.finished_at.desc()).offset(a_day - 1).limit(1)
    first: datetime | None = tx.execute(query).scalar()
    return None if first is None else first + DAY


def withdraw_mails(tx: Tx, merchant_id: str, about: Collection[str]) -> None:
    """Take back what was written about these (beginnings of `about`, all as long) and nobody has tried to send yet."""
    c = mails.c
    [length] = {len(beginning) for beginning in about}
    tx.execute(
        sa.delete(mails).where(
            c.merchant_id == merchant_id,
            among(tx, sa.func.substr(c.about, 1, length), about),
            c.state == DUE,
            c.token.is_(None),
            c.attempts == 0,
        )
    )


def list_mails(
    tx: Tx, *, merchant_id: str | None, state: str | None = None, before: str | None = None, limit: int = 50
) -> list[sa.RowMapping]:
    """Newest first."""
    query = sa.select(mails).order_by(mails.c.id.desc())
    if merchant_id is not None:
        query = query.where(mails.c.merchant_id == merchant_id)
    if state is not None:
        query = query.where(mails.c.state == state)
    if before is not None:
        query = query.where(mails.c.id < before)
    return list(tx.execute(query.limit(limit)).mappings())


def list_mails_since(tx: Tx, merchant_id: str, since: datetime, *, limit: int) -> list[sa.RowMapping]:
    """A merchant's mails from a time on, the oldest first."""
    query = sa.select(mails).where(mails.c.merchant_id == merchant_id, mails.c.id >= id_at("mail", since))
    return list(tx.execute(query.order_by(mails.c.id).limit(limit)).mappings())
