"""How a merchant's own invoices are numbered, made and sent. Whatever is stored has passed `checked`."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from billhook.errors import Refused
from billhook.rules.days import zone_of
from billhook.rules.document import Paper, Profile
from billhook.rules.engine import ENGINES, Engine
from billhook.rules.numbering import MOST_DIGITS, PREFIX, Numbering


class InvoicingSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    invoices: Numbering = Numbering()
    credit_notes: Numbering = Numbering(prefix="CN-")
    zone: str = "UTC"
    """The merchant's IANA time zone: what day a moment is on documents, in exports and for a year of numbers."""
    email_documents: bool = False
    """Send each document to the buyer's address once it is ready."""
    engine: Engine = "auto"
    e_invoice: bool = False
    """Embed the invoice as EN 16931 XML (Factur-X) in its PDF."""
    e_invoice_profile: Profile = "en16931"
    paper: Literal["auto", "a4", "us-letter"] = "auto"
    """`auto` is what the country of the locale uses."""
    invoice_payments: bool = False
    """Make an invoice from each payment for which the provider makes none."""
    template: str | None = None
    """The id of one of the merchant's templates; billhook's own where there is none."""

    @property
    def paper_wish(self) -> Paper | None:
        return None if self.paper == "auto" else self.paper


def checked(settings: InvoicingSettings) -> InvoicingSettings:
    """The same settings. Raises `Refused` with the field and what to do."""
    for field, numbering in (("invoices", settings.invoices), ("credit_notes", settings.credit_notes)):
        _check_numbering(field, numbering)
    _check_apart(settings.invoices.prefix, settings.credit_notes.prefix)
    zone_of(settings.zone)
    if settings.engine not in ENGINES:
        raise Refused("engine_unknown", f"`engine` must be one of: {', '.join(ENGINES)}.")
    for field, chosen, choice in (
        ("e_invoice_profile", settings.e_invoice_profile, get_args(Profile)),
        ("paper", settings.paper, ("auto", *get_args(Paper))),
    ):
        if chosen not in choice:
            raise Refused(f"{field}_unknown", f"`{field}` must be one of: {', '.join(choice)}.")
    if settings.template is not None and not settings.template.startswith("tpl_"):
        raise Refused("template_unknown", "`template` must be the id of one of your templates (`tpl_…`), or null.")
    if settings.e_invoice and (settings.template is not None or settings.engine == "wkhtmltopdf"):
        raise Refused(
            "e_invoice_engine",
            "`e_invoice` needs a PDF/A-3, which only Typst draws: `engine` must be `auto` or `typst`, and `template`"
            " null.",
        )
    return settings


def _check_numbering(field: str, numbering: Numbering) -> None:
    if not PREFIX.fullmatch(numbering.prefix):
        raise Refused(
            "prefix_invalid",
            f"`{field}.prefix` must be 1 to 20 letters, digits and . _ / -, must begin with a letter or a digit, and"
            " must not end in a digit, or it would run into the number. `INV-` is one.",
        )
    if numbering.per not in ("merchant", "customer"):
        raise Refused("per_unknown", f"`{field}.per` must be `merchant` or `customer`.")
    if not 1 <= numbering.digits <= MOST_DIGITS:
        raise Refused("digits_invalid", f"`{field}.digits` must be 1 to {MOST_DIGITS}.")


def _check_apart(invoices: str, credit_notes: str) -> None:
    """A series begins with its prefix: where no prefix begins with the other, no customer's name can close the gap."""
    one, other = invoices.casefold(), credit_notes.casefold()
    if one.startswith(other) or other.startswith(one):
        raise Refused(
            "prefixes_overlap",
            f"`invoices.prefix` and `credit_notes.prefix` are {invoices!r} and {credit_notes!r}: invoices and credit"
            " notes must not share a series, so neither may begin with the other. `INV-` and `CN-` will do.",
        )
