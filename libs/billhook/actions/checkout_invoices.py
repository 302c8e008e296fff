"""Payments without an invoice: a checkout that was paid becomes an invoice of billhook's own, where its merchant wants
that and the provider made none."""

from __future__ import annotations

from datetime import datetime

from billhook.actions.invoices import PaidTerms
from billhook.errors import Unprocessable
from billhook.rules.book.change import Fact
from billhook.rules.book.checkout import CheckoutSession
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.invoice import ship_to
from billhook.rules.terms import LineTerms, Party, Terms
from billhook.rules.totals import totals
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.merchants import Merchant
from billhook.store.sources import Source

_LONGEST_NAME = 255
_LONGEST_EMAIL = 320
_MOST_TAX_IDS = 5


def unbilled(merchant: Merchant, source: Source, fact: Fact) -> CheckoutSession | None:
    """The checkout that a fact says was paid, if an invoice is to be made of it. None in test mode, which must not use
    up a number of the series."""
    session = fact.object
    if (
        merchant.invoicing.invoice_payments
        and source.livemode
        and fact.type in ("checkout.completed", "checkout.payment_succeeded")
        and isinstance(session, CheckoutSession)
        and session.mode == "payment"
        and session.payment_status == "paid"
        and session.invoice is None
        and session.currency is not None
        and session.amount_total
    ):
        return session
    return None


def refuse_unbillable(session: CheckoutSession) -> None:
    """Raise `Unprocessable` for an amount that no invoice can be made of."""
    try:
        total = totals(_terms(session, Party(name="-"))).total
    except ValueError as error:
        raise Unprocessable(f"no invoice can be made of the paid checkout {session.external_id}: {error}") from None
    if total != session.amount_total:
        raise Unprocessable(
            f"no invoice can be made of the paid checkout {session.external_id}: {session.amount_total} is no amount"
            f" that can be charged in {session.currency}"
        )


def paid_terms(
    tx: Tx, merchant: Merchant, source: Source, account: str, session: CheckoutSession, paid_at: datetime
) -> PaidTerms:
    """What the invoice charges, and whom: by name, where the book knows the customer by now."""
    return PaidTerms(
        merchant,
        # Several events are about one checkout, so its id, and not the event's, decides what is the same payment.
        (source.id, account, session.external_id),
        _terms(session, _buyer(tx, source, account, session)),
        paid_at,
        session.payment,
    )


def _terms(session: CheckoutSession, buyer: Party) -> Terms:
    return Terms(
        currency=session.currency or "",
        buyer=buyer,
        ship_to=ship_to(session.shipping_name, session.shipping_address),
        lines=(
            LineTerms(
                description=f"Payment {session.payment or session.external_id}", unit_amount=str(session.amount_total)
            ),
        ),
        tax_inclusive=True,
        tax_contained=session.amount_tax or 0,
        customer=session.customer,
        subscription=session.subscription,
        due_days=0,
        metadata={**session.metadata, "checkout_session": session.external_id},
    )


def _buyer(tx: Tx, source: Source, account: str, session: CheckoutSession) -> Party:
    """Whoever was named at the checkout; what was not said there, as the book knows the customer."""
    known = _customer(tx, source, account, session)
    email = next((text for text in (session.customer_email, known.email) if text and len(text) <= _LONGEST_EMAIL), None)
    stand_in = session.customer or session.client_reference_id or session.external_id
    return Party(
        name=(session.customer_name or known.name or email or stand_in)[:_LONGEST_NAME],
        email=email,
        address=session.customer_address or known.address,
        tax_ids=tuple(text[:_LONGEST_NAME] for text in session.customer_tax_ids or ())[:_MOST_TAX_IDS],
    )


def _customer(tx: Tx, source: Source, account: str, session: CheckoutSession) -> Customer:
    nobody = Customer(external_id=session.customer or "-")
    customer_id = book_id(source.id, account, nobody)
    row = book.get(tx, "customer", customer_id, merchant_id=source.merchant_id) if session.customer else None
    known = nobody if row is None else book.value_of("customer", row)
    return known if isinstance(known, Customer) else nobody
