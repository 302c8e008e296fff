"""Merchants' own templates: tried on samples before they are stored, because a wrong one would fail in every
document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from billhook.actions.limits import check_room
from billhook.documents.templating import check_template, own_html
from billhook.documents.view import Shown, shown
from billhook.documents.wkhtmltopdf import RenderError
from billhook.errors import Refused
from billhook.rules.book.customer import Address
from billhook.rules.document import Line, Seller, Snapshot, TaxTotal
from billhook.rules.terms import Party
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.merchants import get_merchant
from billhook.store.templates import Template, create_template, retire_template

LARGEST_TEMPLATE: Final = 64 * 1024
"""Bytes: ten times billhook's own."""

_AT: Final = datetime(2026, 1, 31, tzinfo=UTC)
_LOGO: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""One pixel."""


def add_template(env: Env, merchant_id: str, name: str, source: str, now: datetime) -> Template:
    """Check a template and keep it. Raises `Refused` with the line that is wrong."""
    if len(source.encode()) > LARGEST_TEMPLATE:
        raise Refused("template_too_large", f"A template may have at most {LARGEST_TEMPLATE // 1024} KiB.")
    if "\0" in source:
        raise Refused("template_invalid", "A template is text, without NUL characters.")
    # Outside of any transaction: a template that loops is stopped only at its deadline.
    with env.template_trials.of(merchant_id):
        _try(source)
    with env.database.begin() as tx:
        check_room(env, tx, merchant_id, "templates", now)
        return create_template(tx, merchant_id, name, source, now)


def _try(source: str) -> None:
    try:
        check_template(source)
    except ValueError as error:
        raise Refused("template_invalid", str(error)) from None
    for page in own_html([(source, sample, logo) for sample, logo in _samples()]):
        if isinstance(page, RenderError):
            raise Refused("template_invalid", f"Tried on a sample, {page.reason}.")


def retire(tx: Tx, merchant_id: str, template_id: str, now: datetime) -> bool:
    """Use it for nothing new; False if there is none in use of that id. Raises `Refused` for the one that new documents
    are made with."""
    merchant = get_merchant(tx, merchant_id)
    if merchant is not None and merchant.invoicing.template == template_id:
        raise Refused("template_in_use", "New documents are made with it: set another in the invoicing settings first.")
    return retire_template(tx, template_id, now, merchant_id=merchant_id)


def _samples() -> list[tuple[Shown, str | None]]:
    """An invoice with everything in it, one with next to nothing, and a credit note: a template must work for all
    three."""
    seller = Seller(name="Sample & Co", website="https://example.com", registration="HRB 1", bank=("IBAN XX00",))
    line = Line(
        description="Seats <b>",
        quantity="2.5",
        unit_amount="1000",
        amount=2500,
        discount=100,
        tax=456,
        tax_percent="19",
        tax_category="standard",
        proration=True,
        period_start=_AT,
        period_end=_AT,
    )
    whole = Snapshot(
        kind="invoice",
        currency="eur",
        number="INV-0001",
        seller=seller,
        buyer=Party(
            name="A buyer", email="b@example.com", address=Address(city="Wien", country="AT"), tax_ids=("ATU1",)
        ),
        issued_at=_AT,
        due_at=_AT,
        period_start=_AT,
        period_end=_AT,
        lines=(line,) * 3,
        taxes=(TaxTotal(name="VAT", percent="19", category="standard", taxable=7200, tax=1368),),
        subtotal=7500,
        discount=300,
        tax=1368,
        total=8568,
        amount_due=8568,
        amount_remaining=8568,
        description="A description",
        footer="A footer",
        pay_url="https://example.com/pay",
    )
    bare = Snapshot(kind="invoice", currency="jpy", seller=Seller(name="S"), subtotal=0, total=0)
    note = Snapshot(
        kind="credit_note",
        currency="eur",
        number="CN-0001",
        seller=seller,
        buyer=Party(name="A buyer"),
        issued_at=_AT,
        lines=(line,),
        subtotal=2400,
        tax=456,
        total=2856,
        corrects="INV-0001",
        corrects_issued_at=_AT,
        reason="other",
    )
    return [(shown(whole), _LOGO), (shown(bare), None), (shown(note), None)]
