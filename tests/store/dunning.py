"""Dunning rows for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from store.databases import NOW

from billhook.store.dunning_cases import Case
from billhook.store.payment_attempts import Attempt
from billhook.store.schema import new_id


def new_case(merchant_id: str, invoice: str = "in_1", **fields: Any) -> Case:
    values: dict[str, Any] = {
        "id": new_id("case"),
        "merchant_id": merchant_id,
        "source_id": "src_1",
        "account": "",
        "invoice_id": f"inv_{invoice}_of_{merchant_id}",
        "invoice": invoice,
        "customer": "cus_1",
        "currency": "eur",
        "amount": 1900,
        "policy_id": "dpol_1",
        "zone": "UTC",
        "stage": "grace",
        "owing": True,
        "opened_at": NOW,
        "grace_until": NOW + timedelta(days=7),
        "ends_at": NOW + timedelta(days=21),
        "created_at": NOW,
        **fields,
    }
    return Case(**values)


def new_attempt(case: Case, number: int = 1, **fields: Any) -> Attempt:
    attempt_id = new_id("att")
    values: dict[str, Any] = {
        "id": attempt_id,
        "merchant_id": case.merchant_id,
        "case_id": case.id,
        "source_id": case.source_id,
        "account": case.account,
        "invoice_id": case.invoice_id,
        "trigger": "dunning",
        "number": number,
        "idempotency_key": f"billhook-{attempt_id}",
        "status": "created",
        "amount": case.amount,
        "currency": case.currency,
        "created_at": NOW,
        **fields,
    }
    return Attempt(**values)
