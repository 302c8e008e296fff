"""Which documents an invoice calls for, and what they hold."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.book import Invoice, InvoiceLine, InvoiceStatus
from billhook.rules.invoice import InvoiceSnapshot, documents_due, snapshot_of

ISSUED = datetime(2026, 3, 1, 9, tzinfo=UTC)
times = st.none() | st.datetimes(timezones=st.just(UTC))
texts = st.none() | st.text(max_size=20)


@st.composite
def final_invoices(draw: st.DrawFn) -> Invoice:
    """An invoice that was issued and not touched since."""
    amounts = draw(st.lists(st.integers(-(10**9), 10**9), max_size=5))
    tax = draw(st.integers(0, 10**6))
    total = sum(amounts) + tax
    return Invoice(
        external_id="in_1",
        number=draw(texts),
        status="open",
        currency=draw(st.sampled_from(["usd", "jpy", "kwd"])),
        subtotal=sum(amounts),
        tax=tax,
        total=total,
        amount_due=max(total, 0),
        amount_paid=0,
        amount_remaining=max(total, 0),
        finalized_at=ISSUED,
        customer_name=draw(texts),
        description=draw(texts),
        lines=tuple(
            InvoiceLine(external_id=f"il_{i}", amount=amount, description=draw(texts))
            for i, amount in enumerate(amounts)
        ),
    )


@st.composite
def lives(draw: st.DrawFn) -> tuple[Invoice, Invoice]:
    """An invoice as issued, and the same one at some later point of its life."""
    issued = draw(final_invoices())
    paid = draw(st.integers(0, issued.amount_due))
    later = msgspec.structs.replace(
        issued,
        status=draw(st.sampled_from(["open", "paid", "uncollectible"])),
        amount_paid=paid,
        amount_remaining=issued.amount_due - paid,
        attempt_count=draw(st.integers(0, 9)),
        next_payment_attempt=draw(times),
        paid_at=draw(times),
        metadata=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
    )
    return issued, later


@given(lives())
def test_an_invoice_document_is_the_same_whichever_event_asks_for_it(life: tuple[Invoice, Invoice]) -> None:
    issued, later = life
    first = snapshot_of(issued, kind="invoice", seller_name="Acme")
    assert snapshot_of(later, kind="invoice", seller_name="Acme") == first
    assert first.invoice.amount_remaining == issued.amount_due


@given(lives())
def test_a_receipt_says_what_was_paid_and_when(life: tuple[Invoice, Invoice]) -> None:
    _, later = life
    shown = snapshot_of(later, kind="receipt", seller_name="Acme").invoice
    assert (shown.amount_paid, shown.paid_at) == (later.amount_paid, later.paid_at)


@given(lives(), st.sampled_from(["invoice", "receipt"]))
def test_a_snapshot_survives_being_stored(life: tuple[Invoice, Invoice], kind: str) -> None:
    snapshot = snapshot_of(life[1], kind="receipt" if kind == "receipt" else "invoice", seller_name="Acme")
    again = msgspec.json.decode(msgspec.json.encode(snapshot), type=InvoiceSnapshot)
    assert again == snapshot


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        ("draft", ()),
        ("open", ("invoice",)),
        ("paid", ("invoice", "receipt")),
        ("uncollectible", ("invoice",)),
        ("void", ()),
    ],
)
@given(invoice=final_invoices())
def test_each_state_calls_for_its_documents(status: InvoiceStatus, kinds: tuple[str, ...], invoice: Invoice) -> None:
    assert documents_due(msgspec.structs.replace(invoice, status=status)) == kinds
    assert documents_due(msgspec.structs.replace(invoice, status=status, deleted=True)) == ()


@given(final_invoices())
def test_the_seller_on_the_invoice_goes_before_the_merchants_name(invoice: Invoice) -> None:
    named = msgspec.structs.replace(invoice, seller_name="Acme GmbH", seller_country="DE")
    assert snapshot_of(invoice, kind="invoice", seller_name="acme").seller_name == "acme"
    snapshot = snapshot_of(named, kind="invoice", seller_name="acme")
    assert (snapshot.seller_name, snapshot.seller_country) == ("Acme GmbH", "DE")


@given(final_invoices())
def test_an_unknown_locale_is_refused_before_anything_is_stored(invoice: Invoice) -> None:
    with pytest.raises(ValueError, match="no locale"):
        snapshot_of(invoice, kind="invoice", seller_name="Acme", locale="xx")
