"""The terms of own invoices before a transaction opens: whether they can be charged, what they come to, and what the
document will say. For thousands of lines this takes a second, in which no lock may be held."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from billhook.actions.ledger import owner
from billhook.decoding import decode
from billhook.errors import Refused, Unprocessable
from billhook.outlets.mail.mime import recipient
from billhook.rules.book.customer import Address
from billhook.rules.days import days_later
from billhook.rules.document import TEMPLATE, Snapshot
from billhook.rules.e_invoice import asked_before_number, missing
from billhook.rules.money import parse_locale
from billhook.rules.storable import in_utc
from billhook.rules.terms import Terms
from billhook.rules.totals import Totals, totals
from billhook.rules.urls import check_url
from billhook.store.database import Database
from billhook.store.merchants import Merchant
from billhook.store.own_invoices import get_own_invoice

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes it: after an even number of backslashes, for each pair of them is one in the text."""
_LONGEST: Final = 255


@dataclass(frozen=True)
class CheckedTerms:
    """Terms that can be charged and stored, and what they come to. For thousands of lines the check takes a second, so
    it is done before a transaction opens, while no lock is held."""

    terms: Terms
    digest: bytes
    charged: Totals


def check(terms: Terms, *, paid: bool = False) -> CheckedTerms:
    """Raises `Refused`. What was `paid` already is invoiced whatever address the buyer gave."""
    try:
        encoded = msgspec.json.encode(terms, order="sorted")
        if _NUL.search(encoded):
            raise ValueError("a text holds a NUL character, which no database keeps")
        terms = decode(encoded, Terms)
        charged = totals(terms)
        for place, at in _times(terms):
            in_utc(at, "invoice", place)
        if terms.locale is not None:
            parse_locale(terms.locale)
        for where, address in (("buyer", terms.buyer.address), ("ship_to", terms.ship_to and terms.ship_to.address)):
            if any(len(text) > _LONGEST for text in filter(None, msgspec.structs.astuple(address or Address()))):
                raise ValueError(f"each part of `{where}.address` may have at most {_LONGEST} characters")
    except (
        ValueError,
        RecursionError,
        Unprocessable,
    ) as error:  # msgspec's errors and those of encoding are ValueErrors too
        raise Refused("terms_invalid", str(error).replace("`$.", "`")) from None
    if terms.pay_url is not None:
        check_url("pay_url", terms.pay_url)
    if terms.buyer.email and not paid:
        try:
            recipient(terms.buyer.email)
        except Unprocessable as error:
            raise Refused("recipient_invalid", f"`buyer.email`: {error}") from None
    return CheckedTerms(terms, hashlib.sha256(encoded).digest(), charged)


def _times(terms: Terms) -> Iterator[tuple[str, datetime]]:
    places = [("", terms.period_start, terms.period_end)]
    places += [(f"lines[{n}].", line.period_start, line.period_end) for n, line in enumerate(terms.lines)]
    for place, start, end in places:
        yield from ((f"{place}{name}", at) for name, at in (("period_start", start), ("period_end", end)) if at)


@dataclass(frozen=True)
class Prepared:
    """What a draft will say when it is final. For thousands of lines this takes a second, so it is worked out before
    the transaction that issues or deletes it, in which nobody else takes a number."""

    merchant: Merchant
    terms: Terms
    shown: Snapshot
    """Issued at the time of preparing."""
    lacking: tuple[str, ...]
    """What an e-invoice of it would lack."""

    def holds_for(self, merchant: Merchant, terms: Terms) -> bool:
        return (self.merchant, self.terms) == (merchant, terms)


def prepare(merchant: Merchant, terms: Terms, now: datetime, charged: Totals | None = None) -> Prepared:
    shown = shown_of(merchant, terms, now, charged or totals(terms))
    lacking: tuple[str, ...] = ()
    if merchant.invoicing.e_invoice and terms.lines:
        numbered = msgspec.structs.replace(shown, number="to come")
        lacking = (*missing(numbered), *asked_before_number(numbered))
    return Prepared(merchant, terms, shown, lacking)


def prepared_draft(database: Database, invoice_id: str, now: datetime) -> Prepared | None:
    """None where there is no such draft."""
    with database.read() as tx:
        invoice = get_own_invoice(tx, invoice_id)
        merchant = None if invoice is None else owner(tx, invoice.merchant_id)
    if invoice is None or merchant is None or invoice.state != "draft":
        return None
    return prepare(merchant, invoice.terms, now)


def shown_of(merchant: Merchant, terms: Terms, issued_at: datetime, charged: Totals) -> Snapshot:
    """What its document shows if it is issued then; the number is still to come."""
    zone = merchant.invoicing.zone
    shown = Snapshot(
        kind="invoice",
        template=merchant.invoicing.template or TEMPLATE,
        locale=terms.locale or merchant.locale,
        zone=zone,
        paper=merchant.invoicing.paper_wish,
        profile=merchant.invoicing.e_invoice_profile,
        currency=terms.currency,
        seller=merchant.seller,
        buyer=terms.buyer,
        ship_to=terms.ship_to,
        period_start=terms.period_start,
        period_end=terms.period_end,
        buyer_reference=terms.buyer_reference,
        lines=charged.lines,
        tax_inclusive=terms.tax_inclusive,
        allowances=charged.allowances,
        taxes=charged.taxes,
        subtotal=charged.subtotal,
        discount=charged.discount,
        tax=charged.tax,
        total=charged.total,
        amount_due=charged.total,
        amount_remaining=charged.total,
        description=terms.description,
        footer=terms.footer,
        pay_url=terms.pay_url,
    )
    return issued(shown, terms, issued_at)


def issued(shown: Snapshot, terms: Terms, at: datetime) -> Snapshot:
    return msgspec.structs.replace(shown, issued_at=at, due_at=days_later(at, terms.due_days, shown.zone))
