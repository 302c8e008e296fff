"""The words on documents, on the hosted page and in reminders: one file a language, `languages/<language>.toml`.

Terms are those that law and custom use for invoices in each language: "Steuerschuldnerschaft des Leistungsempfängers"
is what a German tax office looks for, a translation of "reverse charge" is not. In languages that have no file the
words are English, and dates and amounts are still written as the locale writes them. docs/translate.md is for
translators.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Final, Literal, TypeVar

import msgspec
from babel import Locale

from billhook.errors import LanguageError


class Words(msgspec.Struct, frozen=True, kw_only=True):
    invoice: str
    receipt: str
    credit_note: str

    stamp_void: str
    stamp_paid: str
    stamp_credit: str
    test: str
    """On what a source in test mode told: one word, in capitals where there are any. It stands before names."""
    test_note: str

    billed_to: str
    received_from: str
    credited_to: str
    shipped_to: str
    """Where it is delivered to."""
    tax_id: str
    """Before the number: "VAT ID"."""

    invoice_number: str
    credit_note_number: str
    issued: str
    due: str
    paid_on: str
    payment_method: str
    payment_reference: str
    """Before what the payer or the bank named a payment by."""
    voided_on: str
    period: str
    buyer_reference: str
    """Before what the buyer wants to find the document by."""
    currency: str
    corrects: str
    corrects_dated: str
    reason: str
    duplicate: str
    fraudulent: str
    order_change: str
    product_unsatisfactory: str
    refund: str
    """Before a reference to it."""

    headline_due: str
    headline_due_on: str
    headline_paid: str
    headline_paid_on: str
    headline_void: str
    headline_credited: str
    headline_refunded: str
    headline_nothing: str

    description: str
    quantity: str
    unit_price: str
    tax: str
    vat: str
    """The tax that own invoices charge, where they do not name it."""
    amount: str
    item: str
    prorated: str
    discount: str
    line_tax: str
    line_tax_included: str

    subtotal: str
    line_discounts: str
    net: str
    tax_on: str
    """`{tax}` is its name and rate, here and in the next."""
    tax_included: str
    shipping: str
    adjustment: str
    """What a provider's total has that no other row explains."""
    total: str
    balance: str
    amount_paid: str
    amount_due: str
    remaining: str
    credited: str
    refunded: str

    reverse_charge: str
    exempt: str
    intra_community: str
    export: str
    outside_scope: str
    reverse_charge_note: str
    intra_community_note: str
    export_note: str
    transfer: str
    transfer_reference: str
    incomplete: str

    pay_online: str
    page: str
    download: str


class HostedWords(msgspec.Struct, frozen=True, kw_only=True):
    """What only the hosted page needs."""

    skip: str
    """To what the page is about, for who steps through it by keyboard."""
    seller: str
    facts: str
    """Names the list of number, dates and so on, for screen readers; so do `lines` and `totals`."""
    lines: str
    totals: str
    making: str
    failed: str
    gone: str
    gone_why: str
    view: str
    """In a mail: to the page."""


class DunningWords(msgspec.Struct, frozen=True, kw_only=True):
    """What customers are told by mail of a payment that failed, or that is to be made."""

    subject_failed: str
    collect_failed: str
    try_again: str
    """After it, where it is tried again."""
    subject_upcoming: str
    upcoming: str
    subject_reminder: str
    remind_friendly: str
    """Before the due date; `remind_due` on it, `remind_overdue` and `remind_last` after it."""
    remind_due: str
    remind_overdue: str
    remind_last: str
    confirm: str
    """The bank wants the customer (3-D Secure)."""
    other_method: str
    pay_here: str


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its tables are named as these fields."""

    document: Words
    hosted_page: HostedWords
    dunning: DunningWords


PLACEHOLDERS: Final[dict[str, frozenset[str]]] = {
    "corrects_dated": frozenset({"number", "date"}),
    "headline_due": frozenset({"amount"}),
    "headline_due_on": frozenset({"amount", "date"}),
    "headline_paid": frozenset({"amount"}),
    "headline_paid_on": frozenset({"amount", "date"}),
    "headline_credited": frozenset({"amount"}),
    "headline_refunded": frozenset({"amount"}),
    "line_tax": frozenset({"amount"}),
    "line_tax_included": frozenset({"amount"}),
    "tax_on": frozenset({"tax", "base"}),
    "tax_included": frozenset({"tax"}),
    "transfer_reference": frozenset({"number"}),
    "page": frozenset({"page", "pages"}),
    "subject_failed": frozenset({"number"}),
    "collect_failed": frozenset({"amount", "number"}),
    "try_again": frozenset({"date"}),
    "subject_upcoming": frozenset({"number", "date"}),
    "upcoming": frozenset({"amount", "number", "date"}),
    "subject_reminder": frozenset({"number"}),
    "remind_friendly": frozenset({"amount", "number", "date"}),
    "remind_due": frozenset({"amount", "number"}),
    "remind_overdue": frozenset({"amount", "number", "date"}),
    "remind_last": frozenset({"amount", "number", "date"}),
    "pay_here": frozenset({"link"}),
}
"""What each sentence is completed with. A sentence that is not here has nothing in braces."""

_FOLDER: Final = Path(__file__).with_name("languages")
_WITHOUT_A_FILE: Final = "en"


def words_for(locale: Locale) -> tuple[str, Words]:
    """The words for a locale, and the language they are in."""
    if locale.language not in languages():
        return _WITHOUT_A_FILE, _language(_WITHOUT_A_FILE).document
    return str(locale).replace("_", "-"), _language(locale.language).document


@cache
def direction_of(language: str) -> Literal["ltr", "rtl"]:
    """Of a BCP 47 tag: of a locale's, which are hundreds."""
    return "rtl" if Locale.parse(language, sep="-").text_direction == "rtl" else "ltr"


def hosted_words(language: str) -> HostedWords:
    """`language` is a BCP 47 tag."""
    name = language.partition("-")[0]
    return _language(name if name in languages() else _WITHOUT_A_FILE).hosted_page


def dunning_words(locale: Locale) -> DunningWords:
    return _language(locale.language if locale.language in languages() else _WITHOUT_A_FILE).dunning


def negotiated(accepted: str) -> str:
    """The language to answer in, from an `Accept-Language` header."""
    wanted = (part.partition(";")[0].strip().lower().partition("-")[0] for part in accepted[:200].split(","))
    return next((language for language in wanted if language in languages()), _WITHOUT_A_FILE)


@cache
def languages() -> frozenset[str]:
    """Those that have a file."""
    return frozenset(file.stem for file in _FOLDER.glob("*.toml"))


@cache
def _language(name: str) -> Language:
    return read_language(_FOLDER / f"{name}.toml")


def read_language(file: Path) -> Language:
    """Raises LanguageError, which names the file and the key, where the file is not as documents need it."""
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise LanguageError(f"{file.name} is not TOML in UTF-8: {error}.") from error
    if unknown := ", ".join(sorted(tables.keys() - set(Language.__struct_fields__))):
        raise LanguageError(f"{file.name} has what no document shows: {unknown}. Take it out, or mend its spelling.")
    return Language(
        document=_words(file, tables, "document", Words),
        hosted_page=_words(file, tables, "hosted_page", HostedWords),
        dunning=_words(file, tables, "dunning", DunningWords),
    )


W = TypeVar("W", Words, HostedWords, DunningWords)


def _words(file: Path, tables: dict[str, object], name: str, kind: type[W]) -> W:
    table = tables.get(name)
    if not isinstance(table, dict):
        raise LanguageError(f"{file.name} has no table [{name}]. Copy it from en.toml and translate it.")
    wanted = set(kind.__struct_fields__)
    if missing := ", ".join(sorted(wanted - table.keys())):
        raise LanguageError(
            f"{file.name} lacks words in [{name}]: {missing}. Copy them from en.toml and translate them."
        )
    if unknown := ", ".join(sorted(table.keys() - wanted)):
        raise LanguageError(
            f"{file.name} has in [{name}] what nothing shows: {unknown}. Take it out, or mend its spelling."
        )
    for key, text in table.items():
        if not isinstance(text, str) or not text.strip():
            raise LanguageError(f"{file.name} has no words for {key} in [{name}]: write them between quotes.")
        if _placeholders(text) != (needed := PLACEHOLDERS.get(key, frozenset())):
            braces = " and ".join(f"{{{one}}}" for one in sorted(needed)) or "nothing in braces"
            raise LanguageError(f"{file.name} must have {braces} in {key} of [{name}]; it has: {text}")
    return kind(**table)


def _placeholders(text: str) -> frozenset[str | None]:
    """None stands for braces that cannot be read."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        return frozenset({None})
    plain = {name if not (form or conversion) else None for _, name, form, conversion in parts if name is not None}
    return frozenset(plain)
