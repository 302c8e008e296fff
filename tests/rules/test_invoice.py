"""Which documents an invoice calls for, and what they hold."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.rules.book.customer import Address
from billhook.rules.book.invoice import Invoice, InvoiceLine, InvoiceStatus
from billhook.rules.document import TEMPLATE, DocumentKind, Seller, Snapshot
from billhook.rules.invoice import documents_due, snapshot_of

QUICK = settings(max_examples=30, deadline=None)
ISSUED = datetime(2026, 3, 1, 9, tzinfo=UTC)
ACME = Seller(name="Acme")
kinds = st.sampled_from(["invoice", "receipt", "void"])
times = st.none() | st.datetimes(timezones=st.just(UTC))
texts = st.none() | st.text(max_size=20)
long_texts = st.none() | st.text(max_size=20) | st.just("x" * 400)


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
        customer_name=draw(long_texts),
        customer_email=draw(long_texts),
        customer_tax_ids=tuple(draw(st.lists(st.text(max_size=5) | st.just("x" * 300), max_size=7))),
        seller_name=draw(long_texts),
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
@QUICK
def test_an_invoice_document_is_the_same_whichever_event_asks_for_it(life: tuple[Invoice, Invoice]) -> None:
    issued, later = life
    first = snapshot_of(issued, kind="invoice", seller=ACME)
    assert snapshot_of(later, kind="invoice", seller=ACME) == first
    assert (first.status, first.amount_paid, first.amount_remaining) == ("open", 0, issued.amount_due)


@given(lives())
@QUICK
def test_a_receipt_says_what_was_paid_and_when(life: tuple[Invoice, Invoice]) -> None:
    _, later = life
    receipt = snapshot_of(later, kind="receipt", seller=ACME)
    assert (receipt.status, receipt.amount_paid, receipt.paid_at) == ("paid", later.amount_paid, later.paid_at)
    assert receipt.dated == (later.paid_at or ISSUED)


@given(lives(), times)
@QUICK
def test_a_void_invoice_says_so_keeps_its_number_and_asks_for_nothing(
    life: tuple[Invoice, Invoice], voided_at: datetime | None
) -> None:
    gone = msgspec.structs.replace(life[1], status="void", voided_at=voided_at, hosted_url="https://pay.example/1")
    shown = snapshot_of(gone, kind="void", seller=ACME)
    assert (shown.status, shown.number, shown.voided_at) == ("void", gone.number, voided_at)
    assert (shown.amount_remaining, shown.pay_url) == (0, None)
    assert shown.dated == (voided_at or ISSUED)


@given(lives(), kinds)
@QUICK
def test_a_snapshot_survives_being_stored_whatever_the_provider_says(
    life: tuple[Invoice, Invoice], kind: DocumentKind
) -> None:
    snapshot = snapshot_of(life[1], kind=kind, seller=ACME)
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot) == snapshot


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        ("draft", ()),
        ("open", ("invoice",)),
        ("paid", ("invoice", "receipt")),
        ("uncollectible", ("invoice",)),
        ("void", ("void",)),
    ],
)
@given(invoice=final_invoices())
@QUICK
def test_each_state_calls_for_its_documents(status: InvoiceStatus, kinds: tuple[str, ...], invoice: Invoice) -> None:
    numbered = msgspec.structs.replace(invoice, status=status, number="A-1", amount_paid=1)
    assert documents_due(numbered) == kinds
    for nothing in (0, -1):
        unpaid = msgspec.structs.replace(numbered, amount_paid=nothing)
        assert documents_due(unpaid) == tuple(kind for kind in kinds if kind != "receipt")
    assert documents_due(msgspec.structs.replace(numbered, deleted=True)) == ()


@given(final_invoices())
@QUICK
def test_what_was_void_before_it_had_a_number_is_nobodys_document(invoice: Invoice) -> None:
    assert documents_due(msgspec.structs.replace(invoice, status="void", number=None)) == ()


@given(final_invoices())
@QUICK
def test_the_seller_on_the_invoice_goes_before_the_merchants_name(invoice: Invoice) -> None:
    nameless = msgspec.structs.replace(invoice, seller_name=None)
    assert snapshot_of(nameless, kind="invoice", seller=ACME).seller == ACME
    named = msgspec.structs.replace(invoice, seller_name="Acme GmbH", seller_country="DE")
    seller = snapshot_of(named, kind="invoice", seller=ACME).seller
    assert seller == Seller(name="Acme GmbH", address=Address(country="DE"))
    at_home = Seller(name="Acme", address=Address(line1="Main Street 1", country="US"), tax_ids=("US1",))
    seller = snapshot_of(named, kind="invoice", seller=at_home).seller
    assert (seller.name, seller.address, seller.tax_ids) == ("Acme GmbH", at_home.address, ("US1",))


def test_a_buyer_without_a_name_is_known_by_what_there_is() -> None:
    invoice = Invoice(
        external_id="in_1",
        status="open",
        currency="eur",
        subtotal=0,
        total=0,
        amount_due=0,
        amount_paid=0,
        amount_remaining=0,
    )
    assert snapshot_of(invoice, kind="invoice", seller=ACME).buyer is None
    for known, name in (({"customer": "cus_1"}, "cus_1"), ({"customer": "cus_1", "customer_email": "a@b.c"}, "a@b.c")):
        buyer = snapshot_of(msgspec.structs.replace(invoice, **known), kind="invoice", seller=ACME).buyer
        assert buyer is not None
        assert buyer.name == name


def test_discounts_are_said_once_and_tax_as_the_total_has_it() -> None:
    lines = (
        InvoiceLine(external_id="il_1", amount=8000, discount=800, tax=1368),
        InvoiceLine(external_id="il_2", amount=2000, discount=200, tax=342),
    )
    invoice = Invoice(
        external_id="in_1",
        status="open",
        currency="eur",
        subtotal=10000,
        discount=1000,
        tax=1710,
        total=10710,
        amount_due=10710,
        amount_paid=0,
        amount_remaining=10710,
        lines=lines,
    )
    shown = snapshot_of(invoice, kind="invoice", seller=ACME)
    assert [(line.discount, line.allowance, line.charged) for line in shown.lines] == [(0, 800, 7200), (0, 200, 1800)]
    assert sum(line.discount for line in shown.lines) + sum(each.amount for each in shown.allowances) == 1000
    assert [(part.tax, part.percent) for part in shown.taxes] == [(1710, None)]
    assert not shown.tax_inclusive
    within = msgspec.structs.replace(invoice, total=9000)
    assert snapshot_of(within, kind="invoice", seller=ACME).tax_inclusive


@given(final_invoices())
@QUICK
def test_the_look_is_billhooks_unless_the_merchant_has_one(invoice: Invoice) -> None:
    assert snapshot_of(invoice, kind="invoice", seller=ACME).template == TEMPLATE
    assert snapshot_of(invoice, kind="invoice", seller=ACME, template="tpl_1").template == "tpl_1"


@given(final_invoices())
@QUICK
def test_an_unknown_locale_is_refused_before_anything_is_stored(invoice: Invoice) -> None:
    with pytest.raises(ValueError, match="no locale"):
        snapshot_of(invoice, kind="invoice", seller=ACME, locale="xx")
