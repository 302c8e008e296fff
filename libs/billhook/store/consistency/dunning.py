"""Dunning cases against invoices, both ways, and who owns the retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from billhook.rules.book.invoice import Invoice
from billhook.rules.dunning import OPEN, invoice_cause
from billhook.rules.payment_attempts import COLLECTED
from billhook.rules.reconcile import drift_of
from billhook.store.book import TABLES
from billhook.store.bulk import among
from billhook.store.consistency.check import PAGE, Difference, Page, Scope, invoices_by_age, values_of
from billhook.store.database import Tx
from billhook.store.dunning_cases import dunning_cases
from billhook.store.dunning_policies import current_policies, narrowest, policies_of
from billhook.store.own_invoices import OWN
from billhook.store.sources import get_source
from billhook.store.work import DUE


def cases_and_open_invoices(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    walk, _, rest = (cursor or "cases ").partition(" ")
    if walk == "cases":
        c = dunning_cases.c
        query = sa.select(c.id, c.invoice_id).where(
            c.merchant_id == scope.merchant_id, c.source_id == scope.source_id, c.state == DUE, c.id > rest
        )
        found = list(tx.execute(query.order_by(c.id).limit(PAGE)))
        following = f"cases {found[-1][0]}" if len(found) == PAGE else "invoices "
        return Page([row[1] for row in found], following)
    page = invoices_by_age(tx, scope, rest or None, TABLES["invoice"].c.status == "open")
    return Page(page.subjects, page.cursor and f"invoices {page.cursor}")


def cases_that_differ(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = dunning_cases.c
    query = sa.select(c.id, c.invoice_id, c.stage, c.amount, c.policy_id).where(among(tx, c.invoice_id, ids))
    cases = {row["invoice_id"]: row for row in tx.execute(query).mappings()}
    plans = policies_of(tx, {case["policy_id"] for case in cases.values()})
    current = current_policies(tx, [scope.merchant_id]).get(scope.merchant_id, [])
    source = get_source(tx, scope.source_id)
    collected = source is not None and source.provider in COLLECTED
    found = []
    for invoice_id, (invoice, _) in values_of(tx, "invoice", ids).items():
        case = cases.get(invoice_id)
        if case is None:
            told = _case_missing(scope, invoice, current, collected=collected)
        else:
            told = _case_differs(scope, invoice, case, charges=plans[case["policy_id"]].policy.charges)
        drift = drift_of("dunning_case", invoice_id, told)
        found += [Difference(drift, invoice.amount_remaining, invoice.currency)] if drift else []
    return found


def _case_differs(scope: Scope, invoice: Invoice, case: sa.RowMapping, *, charges: bool) -> dict[str, tuple[Any, Any]]:
    if case["stage"] not in (*OPEN, "scheduled"):
        return {}
    cause = invoice_cause(invoice)
    if cause is not None:
        return {"stage": (case["stage"], cause)}
    told: dict[str, tuple[Any, Any]] = {}
    if charges and scope.source_id != OWN and invoice.next_payment_attempt is not None:
        told["owner_of_retries"] = ("billhook", f"provider, at {invoice.next_payment_attempt.isoformat()}")
    if case["amount"] != invoice.amount_remaining:
        told["amount"] = (case["amount"], invoice.amount_remaining)
    return told


def _case_missing(
    scope: Scope, invoice: Invoice, policies: Sequence[Any], *, collected: bool
) -> dict[str, tuple[Any, Any]]:
    """A payment failed, and nobody looks after it. What is older than the policy was nobody's to look after, and what
    billhook cannot collect is not where it would have to."""
    failed = invoice.attempt_count > 0 and invoice.billing_reason != "subscription_create"
    if scope.source_id == OWN or invoice.status != "open" or not invoice.amount_remaining or not failed:
        return {}
    prices = {line.price for line in invoice.lines if line.price}
    version = narrowest(policies, invoice.customer, prices)
    if version is None or invoice.created is None or invoice.created < version.created_at:
        return {}
    if version.policy.charges and not collected:
        return {}
    return {"case": (None, "grace")}
