"""Setting up a merchant's invoicing: what the desk and the commands do alike."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from billhook.documents.logo import checked_logo
from billhook.errors import Refused, Unprocessable
from billhook.outlets.mail.mime import recipient
from billhook.rules.document import Logo, Seller
from billhook.rules.invoicing_settings import InvoicingSettings, checked
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.merchants import Merchant, get_merchant, set_invoicing, set_seller
from billhook.store.templates import get_template

_ACCENT: Final = re.compile(r"#[0-9a-fA-F]{6}")
_MOST_LINES: Final = 8
"""Of how to pay by transfer. They are one column at the foot of a page."""
_LONGEST: Final = 255
_BREAK: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def change_seller(tx: Tx, merchant_id: str, seller: Seller) -> Merchant:
    """How documents issued from now on show the merchant. Raises `Refused`."""
    merchant = _merchant(tx, merchant_id)
    if seller.logo not in (None, merchant.seller.logo):
        raise Refused("logo_separate", "`logo` is a file of its own: leave it out, and upload it.")
    _check(seller)
    set_seller(tx, merchant_id, msgspec.structs.replace(seller, logo=merchant.seller.logo))
    return _merchant(tx, merchant_id)


def store_logo(env: Env, content: bytes) -> Logo:
    """Check a picture and put it into the object store; no document shows it yet. Raises `Refused`."""
    logo, kept = checked_logo(content)
    env.objects.put_once(logo.key, kept)
    return logo


def change_logo(tx: Tx, merchant_id: str, logo: Logo | None) -> Merchant:
    """Documents issued before keep the logo they have: its bytes stay in the object store."""
    seller = _merchant(tx, merchant_id).seller
    set_seller(tx, merchant_id, msgspec.structs.replace(seller, logo=logo))
    return _merchant(tx, merchant_id)


def change_invoicing(tx: Tx, merchant_id: str, settings: InvoicingSettings) -> Merchant:
    """How own invoices are numbered, made and sent from now on. Raises `Refused`."""
    checked(settings)
    if settings.template is not None:
        template = get_template(tx, settings.template, merchant_id=merchant_id)
        if template is None or template.retired_at is not None:
            raise Refused("template_unknown", "`template` must be one of the merchant's templates that is in use.")
    set_invoicing(tx, merchant_id, settings)
    return _merchant(tx, merchant_id)


def _merchant(tx: Tx, merchant_id: str) -> Merchant:
    """Locked, because what is written is made of what was read: of two changes at once neither may be lost."""
    merchant = get_merchant(tx, merchant_id, lock=True)
    if merchant is None:
        raise Refused("merchant_unknown", f"There is no merchant {merchant_id!r}.")
    return merchant


def _check(seller: Seller) -> None:
    # The colour stands in style sheets, so it is one and nothing else.
    if seller.accent is not None and not _ACCENT.fullmatch(seller.accent):
        raise Refused("accent_invalid", "`accent` must be a colour such as #0a7d4f.")
    if seller.email is not None:
        _check_address(seller.email)
    if len(seller.bank) > _MOST_LINES:
        raise Refused("bank_too_long", f"`bank` may have at most {_MOST_LINES} lines.")
    address = () if seller.address is None else msgspec.structs.astuple(seller.address)
    for text in (
        seller.name,
        seller.website,
        seller.phone,
        seller.registration,
        *seller.bank,
        *seller.tax_ids,
        *address,
    ):
        if text is not None and (len(text) > _LONGEST or _BREAK.search(text)):
            raise Refused("seller_invalid", f"Each text of the seller is one line of at most {_LONGEST} characters.")


def _check_address(email: str) -> None:
    try:
        recipient(email)  # answers to mails go there
    except Unprocessable as error:
        raise Refused("email_invalid", f"`email` must be one address, such as billing@example.com: {error}") from None
