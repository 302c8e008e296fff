"""Events for the inbox, with a word for each thing that matters to a test."""

from __future__ import annotations

import hashlib
from datetime import datetime

from store.databases import NOW

from billhook.store import inbox, work
from billhook.store.database import Database
from billhook.store.inbox import Arrival, Receipt
from billhook.store.schema import new_id


def arrival(external_id: str, body: bytes = b"{}", *, merchant: str = "mrc_a", source: str = "src_a") -> Arrival:
    digest = hashlib.sha256(body).digest()
    return Arrival(new_id("evt"), merchant, source, "", external_id, "invoice.paid", b'{"sig": "1"}', body, digest, NOW)


def accept(database: Database, *arrivals: Arrival, now: datetime = NOW) -> list[Receipt]:
    with database.begin() as tx:
        return inbox.accept(tx, arrivals, now)


def put(database: Database, count: int) -> list[str]:
    """Fill the inbox with this many events that are due; returns their ids."""
    return [receipt.id for receipt in accept(database, *(arrival(f"e{number}") for number in range(count)))]


def row(database: Database, event_id: str) -> work.Row:
    with database.read() as tx:
        found = inbox.get_event(tx, event_id)
    assert found is not None
    return dict(found)
