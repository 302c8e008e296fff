"""Messages: domain events on their way to merchants, as the exact bytes that are signed and sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec
import sqlalchemy as sa

from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index, trace_column
from billhook.store.statements import Insertion

_KEPT = sa.text("pruned_at IS NULL")

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("object_kind", sa.Text, nullable=False),
    sa.Column("object_id", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("inbox_id", sa.Text, nullable=False),  # the event it came from; a message of no event is its own
    sa.Column("number", sa.Integer, nullable=False),  # its place among the event's messages
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    # The provider's ids of whom it is about, for endpoints that want things in order.
    sa.Column("customer", sa.Text),
    sa.Column("subscription", sa.Text),
    sa.Column("pruned_at", Instant),  # its body was deleted when its time was over
    trace_column(),  # of its deliveries too, whenever they are added
    # An event's messages are added once: processing it again adds none.
    sa.UniqueConstraint("inbox_id", "number"),
    sa.Index("ix_messages_merchant_id", "merchant_id", "id"),
    # What was said of an object, one after the other: the state before an event is that of the message before it.
    sa.Index("ix_messages_object_id", "object_id", "id"),
    partial_index("ix_messages_kept", "id", where=_KEPT),
)


class Message(msgspec.Struct, frozen=True, gc=False):
    """(A struct, as are the other values that are made for each message: a tenth of a dataclass's time.)"""

    id: str
    """The `webhook-id` that receivers deduplicate by; the same over all endpoints and attempts."""
    merchant_id: str
    type: str
    object_kind: str
    object_id: str
    body: bytes
    inbox_id: str
    number: int
    occurred_at: datetime
    customer: str | None = None
    subscription: str | None = None
    traceparent: str | None = None

    @classmethod
    def own(
        cls,
        merchant_id: str,
        event_type: str,
        kind: str,
        object_id: str,
        body: bytes,
        now: datetime,
        *,
        customer: str | None = None,
        subscription: str | None = None,
        traceparent: str | None = None,
    ) -> Message:
        """A message that no event of a provider caused."""
        message_id = new_id("msg")
        about = (customer, subscription, traceparent)
        return cls(message_id, merchant_id, event_type, kind, object_id, body, message_id, 0, now, *about)


def add_messages(tx: Tx, new: Sequence[Message], now: datetime) -> list[Message]:
    """Store those that are not there yet (a replayed event adds none twice); returns them."""
    if not new:
        return []
    rows = [{**{field: getattr(m, field) for field in Message.__struct_fields__}, "created_at": now} for m in new]
    added = {row[0] for row in _ADD.rows(tx, rows)}
    return [message for message in new if message.id in added]


_ADD: Final = Insertion(
    messages,
    lambda insert: insert.on_conflict_do_nothing(index_elements=["inbox_id", "number"]).returning(messages.c.id),
)


def count_messages(tx: Tx, inbox_ids: Collection[str]) -> int:
    """How many these events of the inbox have caused."""
    query = sa.select(sa.func.count()).select_from(messages).where(among(tx, messages.c.inbox_id, inbox_ids))
    return int(tx.execute(query).scalar_one())


def get_message(tx: Tx, message_id: str, *, merchant_id: str | None) -> sa.RowMapping | None:
    query = sa.select(messages).where(messages.c.id == message_id)
    if merchant_id is not None:
        query = query.where(messages.c.merchant_id == merchant_id)
    return tx.execute(query).mappings().first()


def list_messages(
    tx: Tx, *, merchant_id: str | None, event_type: str | None = None, before: str | None = None, limit: int = 50
) -> list[sa.RowMapping]:
    """Newest first, without bodies."""
    shown = [column for column in messages.c if column.name != "body"]
    query = sa.select(*shown).order_by(messages.c.id.desc())
    for column, wanted in ((messages.c.merchant_id, merchant_id), (messages.c.type, event_type)):
        if wanted is not None:
            query = query.where(column == wanted)
    if before is not None:
        query = query.where(messages.c.id < before)
    return list(tx.execute(query.limit(limit)).mappings())


def messages_of_event(tx: Tx, event_id: str, *, limit: int) -> list[sa.RowMapping]:
    """What an event of the inbox caused, in its order, without bodies."""
    shown = [column for column in messages.c if column.name != "body"]
    query = sa.select(*shown).where(messages.c.inbox_id == event_id).order_by(messages.c.number).limit(limit)
    return list(tx.execute(query).mappings())


def message_before(tx: Tx, object_id: str, message: sa.RowMapping) -> sa.RowMapping | None:
    """What was said of an object before the moment that this message is of: several events may tell of one moment."""
    c = messages.c
    earlier = (c.id < message["id"], c.occurred_at < message["occurred_at"])
    query = sa.select(messages).where(c.object_id == object_id, *earlier)
    return tx.execute(query.order_by(c.id.desc()).limit(1)).mappings().first()


def messages_about(tx: Tx, object_id: str, *, merchant_id: str, limit: int) -> list[sa.RowMapping]:
    """What was said of an object, newest first, without bodies."""
    shown = [column for column in messages.c if column.name != "body"]
    mine = (messages.c.object_id == object_id, messages.c.merchant_id == merchant_id)
    return list(tx.execute(sa.select(*shown).where(*mine).order_by(messages.c.id.desc()).limit(limit)).mappings())


def types_of(tx: Tx, message_ids: Collection[str]) -> dict[str, str]:
    """The types of these messages."""
    query = sa.select(messages.c.id, messages.c.type).where(among(tx, messages.c.id, message_ids))
    return {row[0]: row[1] for row in tx.execute(query)} if message_ids else {}
