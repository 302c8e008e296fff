"""One event's whole story: what came, what it changed in the book, and everything that followed from that.

What an event means is worked out again from its bytes, which is a pure function of them. What an object was before is
what the last message said of it that is of an earlier moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from billhook.actions.inbox_events import Event, events_of, interpret
from billhook.decoding import convert
from billhook.errors import BillhookError
from billhook.rules.book.change import Change
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import BookObject, book_id
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.deliveries import list_attempts, list_deliveries
from billhook.store.documents import list_documents
from billhook.store.endpoints import Endpoint, endpoints_of
from billhook.store.mails import list_mails_since
from billhook.store.messages import message_before, messages_of_event
from billhook.store.sources import Source
from services.desk.console.fields import LATEST_TRIES, FieldShown, compared, title_of

MOST_MESSAGES: Final = 50
MOST_DELIVERIES: Final = 60
MOST_MAILS: Final = 200


@dataclass(frozen=True)
class ChangeShown:
    """What an event told of one object."""

    kind: str
    id: str
    title: str
    fields: list[FieldShown]
    first: bool
    """Nothing was said of the object before."""
    known: bool
    """Whether it is in the book now."""
    newer: bool
    """The book has heard something later since."""
    removed: bool

    @property
    def changed(self) -> list[FieldShown]:
        return [field for field in self.fields if field.changed]

    @property
    def same(self) -> list[FieldShown]:
        return [field for field in self.fields if not field.changed]


@dataclass(frozen=True)
class DeliveryShown:
    row: Any
    endpoint: Endpoint | None
    attempts: list[Any]


@dataclass(frozen=True)
class MessageShown:
    row: Any
    deliveries: list[DeliveryShown]


@dataclass(frozen=True)
class Story:
    changes: list[ChangeShown]
    problem: str | None
    """Why its bytes cannot be understood."""
    messages: list[MessageShown]
    documents: list[Any]
    invoices: dict[str, str]
    """The titles of invoices, by id."""
    mails: list[Any]


def story_of(tx: Tx, event: Any, source: Source) -> Story:
    changes, problem = _changes(events_of(tx, [event])[0])
    rows = messages_of_event(tx, event["id"], limit=MOST_MESSAGES)
    shown = [_change(tx, event, source, change, rows) for change in changes]
    invoices = {change.id: change.title for change in shown if change.kind == "invoice"}
    documents = [row for invoice in invoices for row in list_documents(tx, invoice, merchant_id=event["merchant_id"])]
    return Story(shown, problem, _messages(tx, rows, event["merchant_id"]), documents, invoices, _mails(tx, documents))


def _changes(event: Event) -> tuple[Sequence[Change], str | None]:
    try:
        meaning = interpret(event)
    except (BillhookError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        return (), str(error) or type(error).__name__
    return (() if meaning is None else meaning.changes), None


def _change(tx: Tx, event: Any, source: Source, change: Change, messages: Sequence[Any]) -> ChangeShown:
    value = change.object
    object_id = book_id(source.id, event["account"], value)
    mine = [row for row in messages if row["object_id"] == object_id]
    earlier = message_before(tx, object_id, mine[0]) if mine else None
    before = _said(value.kind, earlier)
    held = book.get(tx, value.kind, object_id)
    return ChangeShown(
        kind=value.kind,
        id=object_id,
        title=title_of(value),
        fields=compared(before, value),
        first=bool(mine) and earlier is None,
        known=held is not None,
        newer=held is not None and held["version_at"] > change.version[0],
        removed=value.deleted,
    )


def _said(kind: str, message: Any) -> BookObject | None:
    """The object as a message told it; None where that is not kept any more."""
    if message is None or not message["body"]:
        return None
    try:
        data = msgspec.json.decode(message["body"])["data"]
        return convert({name: data[name] for name in KINDS[kind].__struct_fields__ if name in data}, KINDS[kind])
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError):
        return None


def _messages(tx: Tx, rows: Sequence[Any], merchant_id: str) -> list[MessageShown]:
    sent = [
        delivery
        for row in rows
        for delivery in list_deliveries(tx, merchant_id=merchant_id, message_id=row["id"], limit=MOST_DELIVERIES)
    ][:MOST_DELIVERIES]
    attempts = list_attempts(tx, [row["id"] for row in sent], merchant_id=merchant_id, latest=LATEST_TRIES)
    known = endpoints_of(tx, {row["endpoint_id"] for row in sent})
    shown = [
        DeliveryShown(row, known.get(row["endpoint_id"]), [one for one in attempts if one["delivery_id"] == row["id"]])
        for row in sent
    ]
    return [MessageShown(row, [one for one in shown if one.row["message_id"] == row["id"]]) for row in rows]


def _mails(tx: Tx, documents: Sequence[Any]) -> list[Any]:
    """The mails that carried these documents: among the merchant's first ones since they were asked for."""
    if not documents:
        return []
    since = min(row["created_at"] for row in documents) - timedelta(seconds=1)
    mine = tuple(f"document:{row['id']}:" for row in documents)
    found = list_mails_since(tx, documents[0]["merchant_id"], since, limit=MOST_MAILS)
    return [mail for mail in found if mail["about"].startswith(mine)]
