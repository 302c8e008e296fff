"""Payments against the invoices that they paid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.rules.book.invoice import InvoicePayment
from billhook.rules.book.payment import Charge, Payment
from billhook.rules.payment_attempts import ATTEMPT_OF_INVOICE
from billhook.rules.reconcile import drift_of
from billhook.store.book import TABLES, value_of
from billhook.store.bulk import among
from billhook.store.consistency.check import PAGE, Difference, Page, Scope, values_of
from billhook.store.database import Tx
from billhook.store.own_invoices import own_invoices
from billhook.store.schema import Instant


def collected(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    """Payments that succeeded, by when they were made; behind them what was applied to invoices."""
    walk, _, rest = (cursor or "payment ").partition(" ")
    c = TABLES[walk].c
    at, _, after = rest.partition(" ")
    began = datetime.fromisoformat(at) if at else scope.since
    query = sa.select(c.id, c.created).where(
        c.source_id == scope.source_id,
        c.created < scope.until,
        c.status == ("succeeded" if walk == "payment" else "paid"),
        sa.tuple_(c.created, c.id) > sa.tuple_(sa.literal(began, Instant), after),
    )
    found = list(tx.execute(query.order_by(c.created, c.id).limit(PAGE)))
    if len(found) == PAGE:
        return Page([row[0] for row in found], f"{walk} {found[-1][1].isoformat()} {found[-1][0]}")
    return Page([row[0] for row in found], "invoice_payment " if walk == "payment" else None)


def wrongly_applied(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    applied: dict[str, dict[str, InvoicePayment]] = defaultdict(dict)
    for one, (value, row) in values_of(tx, "invoice_payment", ids).items():
        if isinstance(value, InvoicePayment):
            applied[row["account"]][one] = value
    twice = [one for account, theirs in applied.items() for one in _paid_twice(tx, scope, account, theirs)]
    return [*_own_collected(tx, scope, ids), *twice]


def _own_collected(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """Payments that billhook collected for invoices of its own."""
    paid = {
        payment_id: payment
        for payment_id, (payment, row) in values_of(tx, "payment", ids).items()
        # No other account has paid an invoice of ours, whatever its payments say.
        if isinstance(payment, Payment)
        and not row["account"]
        and ATTEMPT_OF_INVOICE in payment.metadata
        and payment.status == "succeeded"
    }
    refunded = _refunded(tx, scope, "", {payment.external_id for payment in paid.values()})
    c = own_invoices.c
    wanted = {payment.metadata[ATTEMPT_OF_INVOICE] for payment in paid.values()}
    query = sa.select(c.id, c.state, c.total, c.payment_reference, c.amount_paid).where(
        c.merchant_id == scope.merchant_id, among(tx, c.id, wanted)
    )
    invoices = {row["id"]: row for row in tx.execute(query).mappings()}
    found = []
    for payment_id, payment in paid.items():
        invoice = invoices.get(payment.metadata[ATTEMPT_OF_INVOICE])
        left = payment.amount_received - refunded.get(payment.external_id, 0)
        told: dict[str, tuple[Any, Any]] = {}
        if left <= 0:
            continue  # it was given back
        if invoice is not None and invoice["state"] == "paid":
            if invoice["payment_reference"] != payment.external_id:
                told["paid_by"] = (invoice["payment_reference"], payment.external_id)
            elif invoice["amount_paid"] != payment.amount_received:
                told["amount"] = (invoice["amount_paid"], payment.amount_received)
        else:
            told["invoice"] = (invoice["state"] if invoice else None, "paid")
        drift = drift_of("collected_payment", payment_id, told)
        found += [Difference(drift, left, payment.currency)] if drift else []
    return found


def _paid_twice(tx: Tx, scope: Scope, account: str, applied: Mapping[str, InvoicePayment]) -> list[Difference]:
    """Payments applied to a provider's invoice beyond its total."""
    c = TABLES["invoice_payment"].c
    names = {value.invoice for value in applied.values()}
    query = sa.select(TABLES["invoice_payment"]).where(
        c.source_id == scope.source_id, c.account == account, among(tx, c.invoice, names), c.status == "paid"
    )
    theirs: dict[str, list[InvoicePayment]] = defaultdict(list)
    for row in tx.execute(query.order_by(c.created, c.id)).mappings():
        value = value_of("invoice_payment", row)
        assert isinstance(value, InvoicePayment)
        theirs[value.invoice].append(value)
    i = TABLES["invoice"].c
    totals = sa.select(i.external_id, i.total).where(
        i.source_id == scope.source_id, i.account == account, among(tx, i.external_id, names)
    )
    total = {row[0]: row[1] for row in tx.execute(totals)}
    refunded = _refunded(tx, scope, account, {one.payment for many in theirs.values() for one in many if one.payment})
    found = []
    for payment_id, value in applied.items():
        if value.status != "paid" or value.invoice not in total:
            continue
        before = 0
        for one in theirs[value.invoice]:
            before += (one.amount_paid or 0) - refunded.get(one.payment or "", 0)
            if one.external_id == value.external_id:
                break
        # Of the payments of one invoice only those are told that went beyond its total.
        if len(theirs[value.invoice]) > 1 and before > total[value.invoice]:
            told = {"paid_by": (total[value.invoice], before)}
            drift = drift_of("collected_payment", payment_id, told)
            found += [Difference(drift, value.amount_paid, value.currency)] if drift else []
    return found


def _refunded(tx: Tx, scope: Scope, account: str, payments: set[str]) -> dict[str, int]:
    if not payments:
        return {}
    c = TABLES[Charge.kind].c
    query = sa.select(c.payment, sa.func.sum(c.amount_refunded)).where(
        c.source_id == scope.source_id, c.account == account, among(tx, c.payment, payments)
    )
    return {row[0]: int(row[1] or 0) for row in tx.execute(query.group_by(c.payment))}
