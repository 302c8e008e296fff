"""The page behind a hosted link: an invoice as it stands now, for whoever was sent the link.

It says what the document says, because it is made from the same value; only what happened to the invoice since
(payments, credit notes, a void) is added. It has no script, and nothing in it comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import jinja2
import msgspec
from markupsafe import Markup

from billhook.documents.built_in import environment
from billhook.documents.qr import qr_svg
from billhook.documents.view import Shown, shown
from billhook.documents.words import direction_of, hosted_words, negotiated
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import Snapshot


class Download(msgspec.Struct, frozen=True):
    """A document of the invoice."""

    title: str
    """Such as "Receipt"."""
    path: str
    """Below the page's own address."""
    state: Literal["ready", "making", "failed"]


def shown_now(issued: Snapshot, invoice: Invoice, credited: int = 0) -> Shown:
    """What an invoice's document would say if it were issued now: paid, void or partly credited since. `credited` is
    the sum of its credit notes."""
    if issued.kind == "void" or invoice.status == "void":
        return shown(msgspec.structs.replace(issued, kind="void", status="void", voided_at=invoice.voided_at))
    before, after = _credited(invoice, credited)
    return shown(
        msgspec.structs.replace(
            issued,
            status="paid" if invoice.status == "paid" else "open",
            amount_paid=invoice.amount_paid,
            amount_remaining=invoice.amount_remaining,
            paid_at=invoice.paid_at,
            credited=before,
            credited_after_payment=after,
        )
    )


def _credited(invoice: Invoice, noted: int) -> tuple[int, int]:
    """The amounts credited before the payment and after it. Where the invoice does not say: of a paid invoice, what its
    `amount_due` is below the total was credited before and the rest after; of any other, all of it before."""
    if invoice.credited_before_payment or invoice.credited_after_payment:
        return invoice.credited_before_payment, invoice.credited_after_payment
    before = min(noted, max(invoice.total - invoice.amount_due, 0)) if invoice.status == "paid" else noted
    return before, noted - before


def hosted_html(document: Shown, downloads: Sequence[Download], *, nonce: str, logo: str | None = None) -> str:
    """`nonce` is what the page's policy allows styles by; `logo` is a `data:` URI."""
    return (
        _environment()
        .get_template("hosted.html")
        .render(
            document=document,
            labels=document.labels,
            words=hosted_words(document.language),
            downloads=downloads,
            nonce=nonce,
            logo=logo,
            code=Markup(qr_svg(document.pay_url)) if document.pay_url else "",
        )
    )


def gone_html(accepted: str, *, nonce: str) -> str:
    """What a link that does not work answers with, the same for every reason. `accepted` is `Accept-Language`."""
    language = negotiated(accepted)
    template = _environment().get_template("hosted_gone.html")
    return template.render(
        language=language, direction=direction_of(language), words=hosted_words(language), nonce=nonce
    )


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return environment("billhook.documents")
