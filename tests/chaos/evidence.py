"""Gathers the evidence of a run: every row of the database, every file, every arrival."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from billhook.errors import BillhookError
from billhook.outlets.objects import Objects
from billhook.store.book import TABLES
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries
from billhook.store.documents import documents
from billhook.store.endpoints import endpoints
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.messages import messages
from billhook.store.queues import QUEUES
from billhook.store.sources import sources
from billhook.store.work import DUE
from tests.chaos.account import BookRow, DeliveryRow, DocumentRow, Evidence, InboxRow, MessageRow
from tests.chaos.ledger import Accepted
from tests.chaos.receiver import Arrival, name_of


def work_left(database: Database) -> dict[str, int]:
    """Rows a queue that are not finished, held or not."""
    with database.read() as tx:
        return {
            queue: tx.execute(sa.select(sa.func.count()).select_from(table).where(table.c.state == DUE)).scalar_one()
            for queue, table in QUEUES.items()
        }


def gather(
    database: Database,
    objects: Objects,
    accepted: Sequence[Accepted],
    arrivals: Sequence[Arrival],
) -> Evidence:
    """What the database and the object store hold, beside what was accepted and what arrived."""
    with database.read() as tx:
        listening = list(tx.execute(sa.select(endpoints)))
        names = {row.id: name_of(row.url) for row in listening}
        # Whose payments are only collected is in an account of its own (`tests.chaos.debts`).
        ours = {row.merchant_id for row in listening}
        providers = {row.id: row.provider for row in tx.execute(sa.select(sources))}
        return Evidence(
            accepted=accepted,
            endpoints={names[row.id]: row.event_types for row in listening},
            arrivals=arrivals,
            inbox=[
                InboxRow(
                    row.id,
                    (providers[row.source_id], row.external_id),
                    bytes(row.sha256),
                    row.state,
                    _seconds(row.finished_at),
                )
                for row in tx.execute(sa.select(inbox).where(inbox.c.merchant_id.in_(ours)))
            ],
            book=[
                BookRow(row.id, kind, (providers[row.source_id], row.external_id), row.metadata.get("event", ""))
                for kind, table in TABLES.items()
                for row in tx.execute(sa.select(table).where(table.c.merchant_id.in_(ours)))
            ],
            messages=[
                MessageRow(row.id, row.inbox_id, row.type, bytes(row.body))
                for row in tx.execute(sa.select(messages).where(messages.c.merchant_id.in_(ours)))
            ],
            deliveries=[
                DeliveryRow(row.id, row.message_id, names[row.endpoint_id], row.state)
                for row in tx.execute(sa.select(deliveries))
            ],
            documents=_documents(tx, objects, ours),
            conflicts=tx.execute(sa.select(sa.func.count()).select_from(inbox_conflicts)).scalar_one(),
        )


def _documents(tx: Tx, objects: Objects, ours: Collection[str]) -> list[DocumentRow]:
    return [
        DocumentRow(
            row.id,
            row.subject_id,
            row.kind,
            row.state,
            _problem(objects, row.object_key, row.sha256) if row.object_key else row.last_error or "no file",
            _seconds(row.finished_at),
        )
        for row in tx.execute(sa.select(documents).where(documents.c.merchant_id.in_(ours)))
    ]


def _problem(objects: Objects, key: str, sha256: str) -> str | None:
    try:
        content = objects.get(key, sha256)
    except BillhookError as error:
        return str(error)
    return None if content.startswith(b"%PDF-") else f"{key} is no PDF"


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at is not None else 0.0
