"""What a document says, in words: every amount, date and label as its locale writes it, and nothing else.

The HTML page, the Typst page, the hosted page and merchants' own templates all get this one value, so they cannot
differ in what they say, and a template can reach nothing but text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from billhook.documents import colours
from billhook.documents.wording import Wording
from billhook.documents.words import Words, direction_of, hosted_words, words_for
from billhook.rules.book.customer import Address
from billhook.rules.document import Allowance, DocumentKind, Line, Paper, Snapshot, TaxTotal
from billhook.rules.terms import VAT, Party

_LETTER: Final = frozenset({"US", "CA", "MX", "PH", "CL", "CO", "CR", "GT", "PA", "SV", "VE", "DO", "PR"})
"""Countries whose paper is Letter. A locale that names no country is of A4."""

_MOST_ROWS: Final = 10
"""Of an address. One with more has each part on a line, so that it does not push what it stands beside off the page."""


_OVERRIDES: Final = {0x202D: None, 0x202E: None}
"""They turn what follows around, whatever it is: the file would show another number than the one it has. What Arabic
and Hebrew need between words of other scripts (marks, isolates) stays."""


class ShownParty(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    """Such as "Billed to"."""
    name: str
    lines: tuple[str, ...] = ()
    """Address, tax ids and contact, one below the other."""


class ShownFact(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    value: str


class ShownLine(msgspec.Struct, frozen=True, kw_only=True):
    description: str
    notes: tuple[str, ...] = ()
    """Below the description, small: the period, "Prorated", a discount."""
    quantity: str
    unit_price: str
    tax: str
    """The rate, such as "19 %"; empty where it is not known."""
    amount: str


class ShownRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the totals."""

    label: str
    amount: str
    strength: str = "plain"
    """`plain`, `strong` (the total) or `grand` (what is to be paid, or was)."""


class ShownTest(msgspec.Struct, frozen=True, kw_only=True):
    """That nothing here is real."""

    mark: str
    """One word, such as "TEST"."""
    note: str


class ShownLabels(msgspec.Struct, frozen=True, kw_only=True):
    """The words around the values."""

    description: str
    quantity: str
    unit_price: str
    tax: str
    amount: str
    pay_online: str
    page: str
    """With `{page}` and `{pages}` in it."""
    download: str
    """Of the hosted page's button."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    kind: DocumentKind
    language: str
    """BCP 47, of the labels and dates."""
    direction: str
    """`ltr` or `rtl`."""
    paper: Paper
    title: str
    """Such as "Invoice"."""
    name: str
    """For a window's title or a file: "Invoice INV-0001"."""
    stamp: str | None
    """Such as "Void" or "Paid", to be seen at first sight."""
    test: ShownTest | None
    """Of what a source in test mode told. Its mark is in `name` too."""
    seller: ShownParty
    buyer: ShownParty | None
    ship_to: ShownParty | None
    """Where that is not what `buyer` says."""
    facts: tuple[ShownFact, ...]
    """Number, dates, period, currency, what a credit note corrects."""
    headline: str
    """What matters most: "€119.00 due March 15, 2026"."""
    pay_url: str | None
    """http or https, and only while something is to be paid."""
    labels: ShownLabels
    lines: tuple[ShownLine, ...]
    taxed: bool
    """Whether any line has a rate to show; the column is left out otherwise."""
    totals: tuple[ShownRow, ...]
    notes: tuple[str, ...]
    """Why no tax is charged, that lines are missing, how to pay by transfer, the merchant's own text."""
    footer: str | None
    legal: tuple[str, ...]
    """What the law wants on letters, at the foot of the document."""
    accent: str
    """`#rrggbb`, for rules and areas."""
    accent_ink: str
    """The accent where it can be read as text on white, and plain ink where it is too light for that."""
    on_accent: str
    """What can be read on an area of the accent: white or ink."""


def shown(snapshot: Snapshot) -> Shown:
    """What a document says. Days are those of its zone. Raises ValueError when the snapshot names an unknown locale."""
    return _Writer(snapshot).shown()


class _Writer:
    """Writes a snapshot's values as its locale does."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.write = Wording(snapshot.locale, snapshot.currency, snapshot.zone)
        self.language, self.words = words_for(self.write.locale)
        unpaid = snapshot.kind == "invoice" and snapshot.status in ("open", "uncollectible")
        self.open = unpaid and snapshot.amount_remaining > 0
        settled = snapshot.kind == "receipt" or snapshot.status == "paid"
        self.settled = settled
        self.paid = settled and snapshot.amount_paid > 0  # and not only credited, or nothing from the beginning

    def shown(self) -> Shown:
        snapshot, words = self.snapshot, self.words
        accent = colours.accent(snapshot.seller.accent)
        title = {"receipt": words.receipt, "credit_note": words.credit_note}.get(snapshot.kind, words.invoice)
        test = None if snapshot.livemode else ShownTest(mark=words.test, note=words.test_note)
        pay_url = snapshot.pay_url if self.open and snapshot.pay_url and _is_web_address(snapshot.pay_url) else None
        return Shown(
            kind=snapshot.kind,
            language=self.language,
            direction=direction_of(self.language),
            paper=snapshot.paper or ("us-letter" if self.write.locale.territory in _LETTER else "a4"),
            title=title,
            # With the mark, since the name is what files, windows, subjects of mails and feet of pages say.
            name=" ".join(filter(None, (test.mark if test else "", title, _on_one_line(snapshot.number or "")))),
            stamp=self.stamp(),
            test=test,
            seller=self.seller(),
            buyer=self.buyer(),
            ship_to=self.ship_to(),
            facts=tuple(
                ShownFact(label=_on_one_line(fact.label), value=_on_one_line(fact.value)) for fact in self.facts()
            ),
            headline=self.headline(),
            pay_url=pay_url,
            labels=_labels(words),
            lines=tuple(map(self.line, snapshot.lines)),
            taxed=any(line.tax_percent is not None for line in snapshot.lines),
            totals=tuple(self.totals()),
            notes=tuple(self.notes()),
            footer=_written(snapshot.footer or "") or None,
            legal=(snapshot.seller.registration,) if snapshot.seller.registration else (),
            accent=accent,
            accent_ink=colours.ink(accent),
            on_accent=colours.ink_on(accent),
        )

    def stamp(self) -> str | None:
        snapshot, words = self.snapshot, self.words
        if snapshot.kind == "void" or snapshot.status == "void":
            return words.stamp_void
        if snapshot.kind == "credit_note":
            return words.stamp_credit
        return words.stamp_paid if self.paid and snapshot.amount_remaining <= 0 else None

    def seller(self) -> ShownParty:
        seller = self.snapshot.seller
        lines = [*self.party(seller), *filter(None, (seller.phone, seller.website))]
        return ShownParty(label=hosted_words(self.language).seller, name=_on_one_line(seller.name), lines=tuple(lines))

    def buyer(self) -> ShownParty | None:
        buyer, words = self.snapshot.buyer, self.words
        if buyer is None:
            return None
        label = {"receipt": words.received_from, "credit_note": words.credited_to}.get(
            self.snapshot.kind, words.billed_to
        )
        lines = tuple(line for line in self.party(buyer) if line != buyer.name)
        return ShownParty(label=label, name=_on_one_line(buyer.name), lines=lines)

    def ship_to(self) -> ShownParty | None:
        to, buyer = self.snapshot.ship_to, self.snapshot.buyer
        if to is None:
            return None
        name = to.name or (buyer.name if buyer else "")
        if buyer and (name, to.address) == (buyer.name, buyer.address):
            return None
        lines = tuple(line for line in self.address(to.address) if line != name)
        return ShownParty(label=self.words.shipped_to, name=_on_one_line(name), lines=lines)

    def party(self, party: Party) -> Iterator[str]:
        if party.address:
            yield from self.address(party.address)
        if party.email:
            yield _on_one_line(party.email)
        for tax_id in party.tax_ids:
            yield f"{self.words.tax_id} {_on_one_line(tax_id)}"

    def address(self, address: Address) -> Iterator[str]:
        """Each of its parts on a line, and each row of a part: a street may have the building and the floor in rows of
        their own."""
        parts = list(self.write.address(address))
        rows = [row.strip() for part in parts for row in part.splitlines() if row.strip()]
        yield from map(_on_one_line, rows if len(rows) <= _MOST_ROWS else parts)

    def facts(self) -> Iterator[ShownFact]:
        snapshot, words = self.snapshot, self.words
        if snapshot.number:
            label = words.credit_note_number if snapshot.kind == "credit_note" else words.invoice_number
            yield ShownFact(label=label, value=snapshot.number)
        for label, at in (
            (words.issued, snapshot.issued_at),
            (words.due, snapshot.due_at if snapshot.kind == "invoice" else None),
            (words.paid_on, snapshot.paid_at if self.paid else None),
            (words.voided_on, snapshot.voided_at if snapshot.kind == "void" else None),
        ):
            if at:
                yield ShownFact(label=label, value=_whole(self.write.day(at)))
        if snapshot.kind == "receipt":
            for label, text in (
                (words.payment_method, snapshot.payment_method),
                (words.payment_reference, snapshot.payment_reference),
            ):
                if text:
                    yield ShownFact(label=label, value=text)
        if snapshot.kind == "credit_note":
            yield from self.correction()
        if period := self.write.period(snapshot.period_start, snapshot.period_end):
            yield ShownFact(label=words.period, value=" – ".join(map(_whole, period.split(" – "))))
        if snapshot.buyer_reference:
            yield ShownFact(label=words.buyer_reference, value=snapshot.buyer_reference)
        for field in snapshot.custom_fields:
            yield ShownFact(label=field.name, value=field.value)
        yield ShownFact(label=words.currency, value=snapshot.currency.upper())

    def correction(self) -> Iterator[ShownFact]:
        snapshot, words = self.snapshot, self.words
        if snapshot.corrects:
            date = _whole(self.write.day(snapshot.corrects_issued_at)) if snapshot.corrects_issued_at else None
            value = words.corrects_dated.format(number=snapshot.corrects, date=date) if date else snapshot.corrects
            yield ShownFact(label=words.corrects, value=value)
        known = {
            "duplicate": words.duplicate,
            "fraudulent": words.fraudulent,
            "order_change": words.order_change,
            "product_unsatisfactory": words.product_unsatisfactory,
        }
        if snapshot.reason and snapshot.reason != "other":
            yield ShownFact(label=words.reason, value=known.get(snapshot.reason, snapshot.reason))
        if snapshot.refund:
            yield ShownFact(label=words.refund, value=snapshot.refund)

    def headline(self) -> str:
        snapshot, words = self.snapshot, self.words
        if snapshot.kind == "void" or snapshot.status == "void":
            return words.headline_void
        if snapshot.kind == "credit_note":
            sentence = words.headline_refunded if snapshot.refund else words.headline_credited
            return sentence.format(amount=self.write.money(snapshot.total))
        if self.paid:
            amount, at, sentences = (
                snapshot.amount_paid,
                snapshot.paid_at,
                (words.headline_paid, words.headline_paid_on),
            )
        elif self.open:
            amount, at, sentences = (
                snapshot.amount_remaining,
                snapshot.due_at,
                (words.headline_due, words.headline_due_on),
            )
        else:
            return words.headline_nothing
        if at is None:
            return sentences[0].format(amount=self.write.money(amount))
        return sentences[1].format(amount=self.write.money(amount), date=_whole(self.write.day(at)))

    def line(self, line: Line) -> ShownLine:
        return ShownLine(
            description=_written(line.description or "") or self.words.item,
            notes=tuple(self.line_notes(line)),
            quantity=self.write.quantity(line.quantity, line.unit) if line.quantity else "",
            unit_price=self.write.unit_price(line.unit_amount) if line.unit_amount else "",
            tax=self.write.percent(line.tax_percent) if line.tax_percent is not None else "",
            amount=self.write.money(line.amount),
        )

    def line_notes(self, line: Line) -> Iterator[str]:
        words = self.words
        when = (self.write.period(line.period_start, line.period_end), words.prorated if line.proration else None)
        if any(when):
            yield " · ".join(filter(None, when))
        if line.discount:
            yield f"{words.discount} {self.write.money(-line.discount)}"
        if line.tax_percent is None:
            inside = line.tax if self.snapshot.tax_inclusive else 0
            included = inside if line.tax_included is None else line.tax_included
            for sentence, tax in ((words.line_tax, line.tax - included), (words.line_tax_included, included)):
                if tax:
                    yield sentence.format(amount=self.write.money(tax))

    def totals(self) -> Iterator[ShownRow]:
        snapshot, words, row = self.snapshot, self.words, self.row
        yield row(words.subtotal, snapshot.subtotal)
        # Lines that came with their share of a discount on the whole do not have it counted twice: what counts is
        # what is left of the sum of all discounts.
        if on_lines := snapshot.discount - sum(allowance.amount for allowance in snapshot.allowances):
            yield row(words.line_discounts, -on_lines)
        for allowance in snapshot.allowances:
            yield row(self.allowance_label(allowance), -allowance.amount)
        if snapshot.credits:
            yield row(words.balance, -snapshot.credits)
        if snapshot.shipping:
            yield row(words.shipping, snapshot.shipping)
        included = [tax for tax in snapshot.taxes if snapshot.includes(tax)]
        on_top = [tax for tax in snapshot.taxes if not snapshot.includes(tax)]
        if on_top and not included and snapshot.net != snapshot.subtotal:
            yield row(words.net, snapshot.net)
        for tax in on_top:
            yield row(self.tax_label(tax), tax.tax)
        if snapshot.adjustment:
            yield row(words.adjustment, snapshot.adjustment)
        settlement = list(self.settlement())
        yield row(words.total, snapshot.total, "strong" if settlement else "grand")
        for tax in included:
            yield row(words.tax_included.format(tax=self.tax_label(tax)), tax.tax)
        yield from settlement

    def settlement(self) -> Iterator[ShownRow]:
        """What of the total is, or was, to be paid: nothing where that is all of it, for the headline says so."""
        snapshot, words, row = self.snapshot, self.words, self.row
        if snapshot.kind == "credit_note":
            yield row(words.refunded if snapshot.refund else words.credited, snapshot.total, "grand")
            return
        if snapshot.kind == "void" or snapshot.status == "void":
            yield row(words.amount_due, 0, "grand")
            return
        if snapshot.credited:
            yield row(words.credited, -snapshot.credited)
        if snapshot.balance:
            yield row(words.balance, snapshot.balance)
        if self.settled:
            yield row(words.amount_paid, snapshot.amount_paid, "grand")
            if snapshot.amount_remaining:
                yield row(words.remaining, snapshot.amount_remaining)
            if snapshot.credited_after_payment:
                yield row(words.credited, snapshot.credited_after_payment)
            return
        if snapshot.amount_paid:
            yield row(words.amount_paid, -snapshot.amount_paid)
        if snapshot.amount_remaining != snapshot.total or snapshot.credited or snapshot.balance or snapshot.amount_paid:
            yield row(words.amount_due, snapshot.amount_remaining, "grand")

    def row(self, label: str, amount: int, strength: str = "plain") -> ShownRow:
        return ShownRow(label=label, amount=self.write.money(amount), strength=strength)

    def allowance_label(self, allowance: Allowance) -> str:
        label = _on_one_line(allowance.label or self.words.discount)
        return f"{label} ({self.write.percent(allowance.percent)})" if allowance.percent else label

    def tax_label(self, tax: TaxTotal) -> str:
        words = self.words
        label = words.vat if tax.name == VAT and tax.category else _on_one_line(tax.name or words.tax)
        if tax.percent is not None:
            label = f"{label} {self.write.percent(tax.percent)}"
        special = {
            "reverse_charge": words.reverse_charge,
            "exempt": words.exempt,
            "intra_community": words.intra_community,
            "export": words.export,
            "outside_scope": words.outside_scope,
        }.get(tax.category or "")
        if special:
            label = f"{label} ({special})"
        return words.tax_on.format(tax=label, base=self.write.money(tax.taxable)) if tax.taxable is not None else label

    def notes(self) -> Iterator[str]:
        snapshot, words = self.snapshot, self.words
        if not snapshot.lines_complete:
            yield words.incomplete
        if any(tax.category == "reverse_charge" for tax in snapshot.taxes):
            yield words.reverse_charge_note
        for category, note in (("intra_community", words.intra_community_note), ("export", words.export_note)):
            if any(tax.category == category and not tax.reason for tax in snapshot.taxes):
                yield note
        said = {words.reverse_charge.casefold(), "reverse charge"}
        yield from dict.fromkeys(
            _on_one_line(tax.reason) for tax in snapshot.taxes if tax.reason and tax.reason.casefold() not in said
        )
        if self.open and snapshot.seller.bank:
            number = [words.transfer_reference.format(number=_on_one_line(snapshot.number))] if snapshot.number else []
            yield "\n".join([words.transfer, *snapshot.seller.bank, *number])
        if snapshot.description:
            yield _written(snapshot.description)


def _written(text: str) -> str:
    """With line breaks of one kind, and without tabs: no font has a letter for those."""
    return "\n".join(text.splitlines()).expandtabs(4).translate(_OVERRIDES)


def _on_one_line(text: str) -> str:
    """A name, a number or a label: a hundred line breaks in it would push what it stands beside off the page."""
    return text if text.isprintable() else " ".join(text.splitlines()).expandtabs(1).translate(_OVERRIDES)


def _whole(date: str) -> str:
    """On one line, however narrow its column."""
    return date.replace(" ", "\N{NO-BREAK SPACE}")


def _labels(words: Words) -> ShownLabels:
    return ShownLabels(**{field: getattr(words, field) for field in ShownLabels.__struct_fields__})


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        url.encode()
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
