"""An invoice to show, and the real PDF engine to show it with."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.rules.book.customer import Address
from billhook.rules.book.invoice import Invoice, InvoiceLine

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)

MakeInvoice = Callable[..., Invoice]


def _line(number: int) -> InvoiceLine:
    credit = number % 5 == 4
    return InvoiceLine(
        external_id=f"il_{number}",
        description="Unused time on Starter" if credit else f"Service {number}",
        quantity="2",
        unit_amount=str(1000 + number),
        amount=(-2 if credit else 2) * (1000 + number),
        proration=credit,
        period_start=MARCH,
        period_end=APRIL,
    )


@pytest.fixture
def make_invoice() -> MakeInvoice:
    """An open invoice of so many lines whose sums add up; fields can be given."""

    def make(lines: int = 3, currency: str = "usd", **fields: object) -> Invoice:
        made = tuple(map(_line, range(lines)))
        subtotal = sum(line.amount for line in made)
        total = subtotal - 100 + 380
        invoice = Invoice(
            external_id="in_1",
            number="ACME-2026-0042",
            status="open",
            currency=currency,
            subtotal=subtotal,
            discount=100,
            tax=380,
            total=total,
            amount_due=total,
            amount_paid=0,
            amount_remaining=total,
            finalized_at=MARCH,
            due_at=datetime(2026, 3, 31, tzinfo=UTC),
            customer_name="Müller & Söhne",
            customer_email="billing@mueller.example",
            customer_address=Address(line1="Hauptstraße 12", postal_code="10115", city="Berlin", country="DE"),
            customer_tax_ids=("DE123456789",),
            description="Thank you for your business.",
            footer="Commercial register Berlin",
            hosted_url="https://pay.example.com/i/1?a=1&b=2",
            lines=made,
        )
        return msgspec.structs.replace(invoice, **fields)

    return make


@pytest.fixture
def wkhtmltopdf() -> Path:
    """The real engine: at a desk without it these tests are skipped, in CI they fail."""
    found = find_wkhtmltopdf()
    if found is None:
        missing = "wkhtmltopdf is not installed: apt-get install wkhtmltopdf"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
