"""Repairs of billhook's own work: what its rows do not agree on is made again by the verbs that made it the first time.

What of it runs by itself, and what waits for a person, is in `rules/reconcile.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from billhook.actions import invoices
from billhook.actions.book_update import BookUpdate
from billhook.actions.consequences import documents as make_documents
from billhook.actions.dunning import dunning
from billhook.actions.inbox_events import documents_of
from billhook.actions.ledger import invoice_documents
from billhook.decoding import decode
from billhook.errors import Refused
from billhook.providers import seller_of
from billhook.queue.handler import Rings
from billhook.rules.book.change import Change, Fact
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import BookObject
from billhook.rules.delivery import REPLAY
from billhook.rules.document import Snapshot
from billhook.rules.payment_attempts import ATTEMPT_OF_INVOICE
from billhook.store import book, queues
from billhook.store.database import Tx
from billhook.store.documents import documents_by_id, latest_document
from billhook.store.endpoints import endpoints_of
from billhook.store.inbox import inbox_ids
from billhook.store.merchants import get_merchant
from billhook.store.messages import get_message
from billhook.store.own_invoices import OWN, get_own_invoice
from billhook.store.reconciliation import Finding
from billhook.store.replay_windows import add_missing
from billhook.store.series import count_on_from
from billhook.store.sources import get_source


def repair_inside(tx: Tx, finding: Finding, now: datetime, *, by: str) -> Rings:
    """Returns the ids to ring for. Raises `Refused` for what only somebody else can mend. What is gone meanwhile needs
    no repair."""
    verb = _VERBS.get(finding.kind)
    if verb is None:
        raise Refused("not_repairable", f"A {finding.kind} cannot be repaired from here: accept it once it is seen to.")
    return verb(tx, finding, now, by)


def _event(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It is processed again."""
    found = inbox_ids(tx, finding.source_id, finding.external_id)
    return queues.replay(tx, "inbox", found, by=by, now=now)


def _document(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It is drawn again; one that was never asked for is asked for."""
    subject_id, _, kind = finding.external_id.rpartition(" ")
    row = latest_document(tx, subject_id, kind, merchant_id=finding.merchant_id)
    if row is not None:
        return queues.replay(tx, "documents", [row["id"]], by=by, now=now)
    invoice, update = _held(tx, finding, subject_id)
    if invoice is None or update is None:
        return {}
    source = get_source(tx, finding.source_id)
    if source is not None and (seller := seller_of(source.provider)) is not None:
        raise Refused(
            "not_repairable",
            f"{seller} sells in its own name and makes the documents of its invoices itself: billhook has none to make."
            " The finding ends with the next run.",
        )
    if finding.source_id == OWN:
        own = get_own_invoice(tx, subject_id)
        shown = None if own is None or own.snapshot is None else decode(own.snapshot, Snapshot)
        wanted = [] if own is None or shown is None else invoice_documents(update.merchant, own, invoice, shown)
    else:
        wanted = documents_of(update.merchant, subject_id, invoice, livemode=update.livemode)
    new = BookUpdate(update.merchant, finding.source_id, update.account, documents=tuple(wanted))
    return make_documents(tx, [new], now)


def _file(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It is drawn again, and is the same: what it shows was kept."""
    rows = documents_by_id(tx, [finding.external_id])
    return queues.replay(tx, "documents", [row["id"] for row in rows], by=by, now=now)


def _case(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """The case follows its invoice as the book holds it; where there is none, it is opened."""
    invoice, update = _held(tx, finding, finding.external_id)
    if invoice is None or update is None:
        return {}
    facts = (Fact("invoice.payment_failed", invoice, now),) if finding.finding_class == "missing_local" else ()
    changes, account = (Change(invoice, now),), update.account
    told = BookUpdate(update.merchant, finding.source_id, account, changes, facts, livemode=update.livemode)
    return dunning(tx, [told], now)


def _own_invoice(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """The book takes what the row says."""
    return invoices.tell_book_again(tx, finding.external_id, now=now)


def _payment(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """The invoice that it was collected for is paid by it."""
    row = book.get(tx, "payment", finding.external_id, merchant_id=finding.merchant_id)
    if row is None or finding.finding_class != "orphan_payment" or ATTEMPT_OF_INVOICE not in (row["metadata"] or {}):
        raise Refused(
            "not_repairable", "Give the money back at the provider: the finding closes once the book knows of that."
        )
    step = invoices.pay(tx, row["metadata"][ATTEMPT_OF_INVOICE], reference=row["external_id"], now=now)
    return step.rings


def _series(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It counts on from the highest number that was taken."""
    series = finding.external_id.partition(" ")[2].rpartition(" ")[0]
    count_on_from(tx, finding.merchant_id, series, int(finding.differences["last"][1]))
    return {}


def _delivery(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It is made, below what is fresh."""
    message_id, _, endpoint_id = finding.external_id.rpartition(" ")
    endpoint = endpoints_of(tx, [endpoint_id], lock=True).get(endpoint_id)
    message = get_message(tx, message_id, merchant_id=finding.merchant_id)
    if endpoint is None or endpoint.deleted_at is not None or message is None or message["pruned_at"] is not None:
        return {}
    return {queues.lane_name(REPLAY): add_missing(tx, endpoint, [message], now)}


def _attempts(tx: Tx, finding: Finding, now: datetime, by: str) -> Rings:
    """It is sent again: the receiver knows by its id what it had."""
    return queues.replay(tx, "deliveries", [finding.external_id], by=by, now=now)


def _held(tx: Tx, finding: Finding, object_id: str) -> tuple[Invoice | None, BookUpdate | None]:
    row = book.get(tx, "invoice", object_id, merchant_id=finding.merchant_id)
    merchant = get_merchant(tx, finding.merchant_id)
    if row is None or merchant is None:
        return None, None
    value: BookObject = book.value_of("invoice", row)
    assert isinstance(value, Invoice)
    return value, BookUpdate(merchant, finding.source_id, row["account"], livemode=row["livemode"])


_VERBS: Final[Mapping[str, Callable[[Tx, Finding, datetime, str], Rings]]] = {
    "event": _event,
    "document": _document,
    "file": _file,
    "dunning_case": _case,
    "own_invoice": _own_invoice,
    "collected_payment": _payment,
    "number_series": _series,
    "delivery": _delivery,
    "delivery_attempts": _attempts,
}
