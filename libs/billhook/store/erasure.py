"""Erasing a person: what is known of a customer besides what the law wants kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.erasing import mentions
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
from billhook.store.reconciliation import reconciliation_findings
from billhook.store.work import DUE

BATCH: Final = 500
"""Rows that are looked through in one transaction."""

_PERSONAL: Final = {
    "customer": ("name", "email", "phone", "address", "metadata"),
    "checkout_session": (
        *("customer_name", "customer_email", "customer_address", "customer_tax_ids"),
        *("shipping_name", "shipping_address", "metadata"),
    ),
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
    for kind in _PERSONAL:
        table = TABLES[kind]
        key = "external_id" if kind == "customer" else "customer"
        mine = sa.and_(table.c.merchant_id == merchant_id, table.c[key] == external_id)
        changed += tx.execute(sa.update(table).where(mine).values(_blanked(kind))).rowcount
    return changed


def blank_guests(database: Database, merchant_id: str, traces: re.Pattern[str]) -> Iterator[int]:
    """The same of checkouts under their address that name no customer."""
    sessions = TABLES["checkout_session"]
    guest = sa.and_(sessions.c.customer.is_(None), sessions.c.customer_email.is_not(None))
    for ids in _speaking(database, sessions, ("customer_email",), merchant_id, traces, guest):
        with database.begin() as tx:
            tx.execute(sa.update(sessions).where(sessions.c.id.in_(ids)).values(_blanked("checkout_session")))
        yield len(ids)


def _blanked(kind: str) -> dict[str, Any]:
    columns = TABLES[kind].c
    # With the states of the last second, which say the same as the columns do.
    return {**{name: _nothing(columns[name]) for name in _PERSONAL[kind]}, "version_seen": None}


def _nothing(column: sa.Column[Any]) -> Any:
    return None if column.nullable else {} if column.name == "metadata" else ""


def delete_mails(database: Database, merchant_id: str, traces: re.Pattern[str]) -> Iterator[int]:
    """Delete every mail to the person or about them, also those that were not sent yet."""
    for ids in _speaking(database, mails, ("recipient", "subject", "body", "html"), merchant_id, traces):
        with database.begin() as tx:
            tx.execute(sa.delete(mails).where(mails.c.id.in_(ids)))
        yield len(ids)


def delete_findings(database: Database, merchant_id: str, traces: re.Pattern[str]) -> Iterator[int]:
    """Delete what reconciliation found of objects that are blanked: it says what the provider says of them."""
    findings = reconciliation_findings
    said = ("external_id", "differences", "seen")
    for ids in _speaking(database, findings, said, merchant_id, traces, findings.c.kind.in_(_PERSONAL)):
        with database.begin() as tx:
            tx.execute(sa.delete(findings).where(findings.c.id.in_(ids)))
        yield len(ids)


def revoke_links(tx: Tx, merchant_id: str, external_id: str, now: datetime) -> int:
    invoices = TABLES["invoice"].c
    theirs = sa.select(invoices.id).where(invoices.merchant_id == merchant_id, invoices.customer == external_id)
    links = hosted_links.c
    good = sa.and_(links.merchant_id == merchant_id, links.invoice_id.in_(theirs), links.revoked_at.is_(None))
    return tx.execute(sa.update(hosted_links).where(good).values(revoked_at=now)).rowcount


def empty_messages(database: Database, merchant_id: str, traces: re.Pattern[str], now: datetime) -> Iterator[int]:
    """Empty the bodies of messages of or about the person, delete what receivers answered, and end the deliveries. Each
    batch is a transaction; yields how many were emptied."""
    unread = messages.c.pruned_at.is_(None)
    for ids in _speaking(database, messages, ("body", "customer"), merchant_id, traces, unread):
        with database.begin() as tx:
            tx.execute(sa.update(messages).where(messages.c.id.in_(ids)).values(body=b"", customer=None, pruned_at=now))
            mine = sa.select(deliveries.c.id).where(deliveries.c.message_id.in_(ids))
            tx.execute(sa.delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(mine)))
            waiting = sa.and_(deliveries.c.message_id.in_(ids), deliveries.c.state == DUE, deliveries.c.token.is_(None))
            tx.execute(sa.update(deliveries).where(waiting).values(state=retention.EXPIRED, finished_at=now))
            retention.close_deliveries(tx, ids, now)
        yield len(ids)


def delete_events(database: Database, merchant_id: str, traces: re.Pattern[str]) -> Iterator[int]:
    """Delete events of the inbox that speak of the person and are over, with what came under their ids."""
    for ids in _speaking(database, inbox_conflicts, ("body",), merchant_id, traces):
        with database.begin() as tx:
            tx.execute(sa.delete(inbox_conflicts).where(inbox_conflicts.c.id.in_(ids)))
    for ids in _speaking(database, inbox, ("body",), merchant_id, traces, inbox.c.state != DUE):
        with database.begin() as tx:
            tx.execute(sa.delete(inbox_conflicts).where(inbox_conflicts.c.inbox_id.in_(ids)))
            tx.execute(sa.delete(inbox).where(inbox.c.id.in_(ids)))
        yield len(ids)


def _speaking(
    database: Database,
    table: sa.Table,
    names: tuple[str, ...],
    merchant_id: str,
    traces: re.Pattern[str],
    *more: sa.ColumnElement[bool],
) -> Iterator[list[str]]:
    """The ids of rows of which one of these columns speaks of the person, batch by batch."""
    after = ""
    while True:
        with database.read() as tx:
            mine = sa.and_(table.c.merchant_id == merchant_id, table.c.id > after, *more)
            query = sa.select(table.c.id, *(table.c[name] for name in names)).where(mine)
            rows = tx.execute(query.order_by(table.c.id).limit(BATCH)).all()
        if not rows:
            return
        after = rows[-1].id
        if found := [row.id for row in rows if any(mentions(_as_bytes(value), traces) for value in row[1:])]:
            yield found


def _as_bytes(value: Any) -> bytes:
    match value:
        case None:
            return b""
        case bytes() | memoryview():
            return bytes(value)
        case str():
            return value.encode(errors="replace")
        case _:
            return json.dumps(value).encode()


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
