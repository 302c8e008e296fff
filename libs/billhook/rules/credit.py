"""Credit notes: what one takes back of an invoice, line by line, tax and all.

What is taken back of a line is split into net and tax by the line's own proportion, and always as the difference of two
roundings: of all that is taken back by now, and of all that was before. So no odd minor unit is lost or given twice,
and when a line is taken back whole, in however many parts, its tax is too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from billhook.rules.document import Line, Snapshot, TaxTotal
from billhook.rules.money import format_money, quantum
from billhook.rules.rounding import round_half_up
from billhook.rules.terms import CreditTerms

Credited = tuple[int, int]
"""A line's place on the invoice, from 0, and what was taken back of it, tax and all."""


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """What a credit note shows, in the words of `document.Snapshot` (its `tax_inclusive` is the invoice's), and what to
    keep of it for the next one."""

    lines: tuple[Line, ...]
    taxes: tuple[TaxTotal, ...]
    subtotal: int
    tax: int
    total: int
    credited: tuple[Credited, ...]


def credit(invoice: Snapshot, terms: CreditTerms, credited_before: Iterable[Credited], creditable: int) -> Credit:
    """Take back what the terms ask for, at most what is left of each line and of the invoice.

    `invoice` is the snapshot of an invoice of billhook's own; `credited_before` is `Credit.credited` of all its earlier
    credit notes, one after the other; `creditable` is the most that this one may come to: of a paid invoice what was
    paid and not given back since, of an open one what is still to be paid. Raises ValueError, with the field and a
    sentence.
    """
    before = [0] * len(invoice.lines)
    for line, amount in credited_before:
        before[line] += amount
    taken = list(_taken(invoice, terms, before))
    total = sum(amount for _, amount in taken)
    left = invoice.total - sum(before)
    if total > min(left, creditable):
        raise ValueError(
            f"lines: {_money(total, invoice)} would be credited, and at most {_money(min(left, creditable), invoice)}"
            f" of invoice {invoice.number} can be: more was not paid, or was credited already."
        )
    if total < 0:
        raise ValueError("lines: together they would take money from the customer. Credit what they were credits for.")
    taxes, lines = _taxes(invoice, [_line(invoice, line, before[line], amount) for line, amount in taken])
    return Credit(
        lines=tuple(lines),
        taxes=taxes,
        subtotal=sum(line.amount for line in lines),
        tax=sum(part.tax for part in taxes),
        total=total,
        credited=tuple(taken),
    )


def _taken(invoice: Snapshot, terms: CreditTerms, before: list[int]) -> Iterator[Credited]:
    left = [_gross(invoice, line) - gone for line, gone in zip(invoice.lines, before, strict=True)]
    if not any(left):
        raise ValueError(f"lines: invoice {invoice.number} is credited already, all of it.")
    if not terms.lines:
        yield from ((line, amount) for line, amount in enumerate(left) if amount)
    seen = set()
    for place, wanted in enumerate(terms.lines):
        field, line = f"lines[{place}]", wanted.line
        if not 0 <= line < len(left):
            raise ValueError(f"{field}.line: the invoice has no line {line}. They count from 0 to {len(left) - 1}.")
        if line in seen:
            raise ValueError(f"{field}.line: line {line} is named twice. Name it once, with the amounts together.")
        seen.add(line)
        if not left[line]:
            raise ValueError(f"{field}.line: nothing is left of line {line}: it is credited already, or was free.")
        if wanted.amount is not None:
            _check_part(f"{field}.amount", invoice, wanted.amount, left[line])
        yield line, left[line] if wanted.amount is None else wanted.amount


def _check_part(field: str, invoice: Snapshot, amount: int, left: int) -> None:
    step = quantum(invoice.currency)
    if left < 0:
        raise ValueError(f"{field}: the line is a credit itself, which is taken back as a whole. Leave the amount out.")
    if amount <= 0 or amount % step:
        raise ValueError(f"{field}: must be above zero, and in {invoice.currency} a multiple of {step}.")
    if amount > left:
        raise ValueError(f"{field}: {_money(amount, invoice)} is more than the {_money(left, invoice)} left of it.")


def _line(invoice: Snapshot, place: int, before: int, taken: int) -> Line:
    line = invoice.lines[place]
    tax = _tax_in(invoice, line, before + taken) - _tax_in(invoice, line, before)
    amount = taken if invoice.tax_inclusive else taken - tax
    whole = amount == line.amount  # no discount either, so the line's quantity and price can be repeated
    return Line(
        description=line.description,
        quantity=line.quantity if whole else "1",
        unit=line.unit if whole else "C62",
        unit_amount=line.unit_amount if whole else str(amount),
        amount=amount,
        tax=tax,
        tax_percent=line.tax_percent,
        tax_category=line.tax_category,
        rate=line.rate,
        proration=line.proration,
        period_start=line.period_start,
        period_end=line.period_end,
    )


def _tax_in(invoice: Snapshot, line: Line, taken: int) -> int:
    """The tax in a part of a line. Zero for nothing, the line's whole tax for the whole line, and never falling in
    between."""
    gross = _gross(invoice, line)
    sign = 1 if gross > 0 else -1
    return round_half_up(sign * taken * line.tax, sign * gross, quantum(invoice.currency))


def _gross(invoice: Snapshot, line: Line) -> int:
    return line.charged + (0 if invoice.tax_inclusive else line.tax)


def _taxes(invoice: Snapshot, lines: list[Line]) -> tuple[tuple[TaxTotal, ...], list[Line]]:
    """The note's taxes, in the invoice's order, and its lines with their places among them."""
    parts: dict[int, list[Line]] = {}
    for line in lines:
        if line.rate is not None:
            parts.setdefault(line.rate, []).append(line)
    taxes = []
    for rate in sorted(parts):
        tax = sum(line.tax for line in parts[rate])
        taxable = sum(line.amount for line in parts[rate]) - (tax if invoice.tax_inclusive else 0)
        taxes.append(msgspec.structs.replace(invoice.taxes[rate], taxable=taxable, tax=tax))
    places = {rate: place for place, rate in enumerate(sorted(parts))}
    return tuple(taxes), [
        line if line.rate is None else msgspec.structs.replace(line, rate=places[line.rate]) for line in lines
    ]


def _money(amount: int, invoice: Snapshot) -> str:
    return format_money(amount, invoice.currency, "en")
