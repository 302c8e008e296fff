"""Erasing a person: what is known of a customer besides what the law wants kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.store import retention
from billhook.store.book import TABLES
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.documents import documents
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.links import hosted_links
from billhook.store.mails import mails
from billhook.store.messages import messages
from billhook.store.own_invoices import own_invoices
from billhook.store.work import DUE

BATCH: Final = 500
"""Rows that are looked through in one transaction."""

_PERSONAL: Final = {
    "customer": ("name", "email", "phone", "address", "metadata"),
    "checkout_session": ("customer_name", "customer_email", "customer_address", "customer_tax_ids", "metadata"),
    "subscription": ("metadata",),
}
"""Columns of the book that say something of a person and that no law wants kept."""


def find_customer(tx: Tx, merchant_id: str, customer: str) -> sa.RowMapping | None:
    """By billhook's id or the provider's."""
    c = TABLES["customer"].c
    query = sa.select(TABLES["customer"]).where(
        c.merchant_id == merchant_id, sa.or_(c.id == customer, c.external_id == customer)
    )
    return tx.execute(query.limit(1)).mappings().first()


def blank(tx: Tx, merchant_id: str, external_id: str) -> int:
    """Take out of the book what is said of the person; returns how many objects were changed."""
    changed = 0
    for kind, names in _PERSONAL.items():
        table = TABLES[kind]
        key = "external_id" if kind == "customer" else "customer"
        mine = sa.and_(table.c.merchant_id == merchant_id, table.c[key] == external_id)
        nothing = {name: _nothing(table.c[name]) for name in names}
        changed += tx.execute(sa.update(table).where(mine).values(nothing)).rowcount
    return changed


def _nothing(column: sa.Column[Any]) -> Any:
    return None if column.nullable else {} if column.name == "metadata" else ""


def delete_mails(tx: Tx, merchant_id: str, address: str) -> int:
    """Every mail to an address, also those that were not sent yet."""
    to = sa.func.lower(mails.c.recipient)
    mine = sa.or_(to == address.lower(), to.endswith(f"<{address.lower()}>", autoescape=True))
    return tx.execute(sa.delete(mails).where(mails.c.merchant_id == merchant_id, mine)).rowcount


def revoke_links(tx: Tx, merchant_id: str, external_id: str, now: datetime) -> int:
    invoices = TABLES["invoice"].c
    theirs = sa.select(invoices.id).where(invoices.merchant_id == merchant_id, invoices.customer == external_id)
    links = hosted_links.c
    good = sa.and_(links.merchant_id == merchant_id, links.invoice_id.in_(theirs), links.revoked_at.is_(None))
    return tx.execute(sa.update(hosted_links).where(good).values(revoked_at=now)).rowcount


def empty_messages(database: Database, merchant_id: str, needles: list[bytes], now: datetime) -> Iterator[int]:
    """Empty the bodies of messages that hold one of these bytes, delete what receivers answered, and end the
    deliveries. Each batch is a transaction; yields how many were emptied."""
    for ids in _holding(database, messages, merchant_id, needles):
        with database.begin() as tx:
            tx.execute(sa.update(messages).where(messages.c.id.in_(ids)).values(body=b"", customer=None, pruned_at=now))
            mine = sa.select(deliveries.c.id).where(deliveries.c.message_id.in_(ids))
            tx.execute(sa.delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(mine)))
            waiting = sa.and_(deliveries.c.message_id.in_(ids), deliveries.c.state == DUE, deliveries.c.token.is_(None))
            tx.execute(sa.update(deliveries).where(waiting).values(state=retention.EXPIRED, finished_at=now))
            retention.close_deliveries(tx, ids, now)
        yield len(ids)


def delete_events(database: Database, merchant_id: str, needles: list[bytes]) -> Iterator[int]:
    """Delete events of the inbox that hold one of these bytes and are over, with what came under their ids."""
    for ids in _holding(database, inbox, merchant_id, needles, inbox.c.state != DUE):
        with database.begin() as tx:
            tx.execute(sa.delete(inbox_conflicts).where(inbox_conflicts.c.inbox_id.in_(ids)))
            tx.execute(sa.delete(inbox).where(inbox.c.id.in_(ids)))
        yield len(ids)


def _holding(
    database: Database, table: sa.Table, merchant_id: str, needles: list[bytes], *more: sa.ColumnElement[bool]
) -> Iterator[list[str]]:
    after = ""
    while True:
        with database.read() as tx:
            mine = sa.and_(table.c.merchant_id == merchant_id, table.c.id > after, *more)
            query = sa.select(table.c.id, table.c.body).where(mine)
            rows = tx.execute(query.order_by(table.c.id).limit(BATCH)).all()
        if not rows:
            return
        after = rows[-1].id
        if found := [row.id for row in rows if any(needle in bytes(row.body) for needle in needles)]:
            yield found


def kept(tx: Tx, merchant_id: str, external_id: str) -> dict[str, int]:
    """How many records of the person stay: what the law wants, and drafts, which are somebody's to delete."""

    def count(table: sa.Table, *more: sa.ColumnElement[bool]) -> int:
        mine = sa.and_(table.c.merchant_id == merchant_id, *more)
        return int(tx.execute(sa.select(sa.func.count()).select_from(table).where(mine)).scalar_one())

    invoices = TABLES["invoice"].c
    theirs = sa.select(invoices.id).where(invoices.merchant_id == merchant_id, invoices.customer == external_id)
    booked = {f"{kind}s": TABLES[kind] for kind in ("invoice", "credit_note", "payment")}
    return {
        **{name: count(table, table.c.customer == external_id) for name, table in booked.items()},
        "documents": count(documents, documents.c.subject_id.in_(theirs)),
        "drafts": count(own_invoices, own_invoices.c.customer == external_id, own_invoices.c.state == "draft"),
    }
