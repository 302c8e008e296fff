"""An open case, as the measures of dunning and of standing fill their ledgers with."""

from __future__ import annotations

from datetime import datetime

from billhook.store.dunning_cases import Case
from billhook.store.schema import new_id


def open_case(
    merchant: str,
    source: str,
    policy: str,
    invoice: str,
    customer: str,
    opened_at: datetime,
    *,
    grace_until: datetime,
    ends_at: datetime,
    customer_id: str | None = None,
) -> Case:
    return Case(
        id=new_id("case"),
        merchant_id=merchant,
        source_id=source,
        account="",
        invoice_id=f"inv_{invoice}",
        invoice=invoice,
        customer=customer,
        customer_id=customer_id,
        currency="eur",
        amount=1900,
        policy_id=policy,
        zone="UTC",
        stage="grace",
        owing=True,
        opened_at=opened_at,
        grace_until=grace_until,
        ends_at=ends_at,
        created_at=opened_at,
        final_action="none",
    )
