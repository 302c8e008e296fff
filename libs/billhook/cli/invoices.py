"""The operator's commands for invoices: `billhook invoices …`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from billhook.cli.arguments import Owner, owner_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.decoding import convert
from billhook.rules.export import Decimals, Delimiter, Format, Kind, Mode, Preset, style_of
from billhook.rules.terms import CreditTerms, Terms
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.merchants import get_merchant
from billhook.store.own_invoices import get_own_invoice

if TYPE_CHECKING:
    from billhook.actions.ledger import Step

T = TypeVar("T", bound=msgspec.Struct)

commands = command_group("invoices")

InvoiceId = Annotated[str, typer.Argument(metavar="INVOICE_ID")]
Key = Annotated[
    str | None, typer.Option(help="The same request under the same key is done once. Left out: each time anew.")
]
TermsFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A file with the terms as JSON, as the desk's API takes them; `-` reads them."),
]

_COLUMNS = ("id", "merchant_id", "source_id", "number", "status", "customer_name", "currency", "total", "finalized_at")


def read_json(name: str, kind: type[T]) -> T:
    """A value from a file, or with `-` from standard input."""
    from billhook.actions.typed_json import decoded

    return decoded(sys.stdin.buffer.read() if name == "-" else read_bytes(name), kind)


def read_bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from None


def _find(tx: Tx, invoice_id: str) -> Any:
    row = book.get(tx, "invoice", invoice_id)
    if row is None:
        raise CommandError(f"There is no invoice {invoice_id!r}. See `billhook invoices list`.")
    return row


def _shown(tx: Tx, invoice_id: str) -> dict[str, Any]:
    from billhook.store.documents import list_documents

    row = _find(tx, invoice_id)
    own = get_own_invoice(tx, invoice_id)
    documents = list_documents(tx, invoice_id)
    return {
        **{name: row[name] for name in (*_COLUMNS, "amount_due", "amount_paid", "amount_remaining")},
        "amount_credited": None if own is None else own.amount_credited,
        "due_at": row["due_at"],
        "paid_at": row["paid_at"],
        "voided_at": row["voided_at"],
        "lines": len(row["lines"]),
        "documents": list(map(_told, documents)),
    }


def _told(document: Any) -> str:
    warning = f"; {document['warning']}" if document["warning"] else ""
    return f"{document['kind']} ({document['template']}): {document['state']}{warning}"


def _do(invoice_id: str, verb: Callable[[Tx, datetime], Step], *, as_json: bool) -> None:
    """One verb in one transaction, and the invoice as it is then."""
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.begin() as tx:
            _find(tx, invoice_id)
            step = verb(tx, env.clock())
            invoice = _shown(tx, invoice_id)
        ring(env, step.rings)
        show_one(invoice, as_json=as_json)


@commands.command("list")
def list_invoices(
    status: Annotated[str | None, typer.Option(help="draft, open, paid, void or uncollectible.")] = None,
    customer: Annotated[str | None, typer.Option(help="The provider's id of the customer; of own ones yours.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    merchant: Narrow = None,
    as_json: Json = False,
) -> None:
    """List invoices, in the order of their ids."""
    with opened() as env, env.database.read() as tx:
        found = book.list_objects(tx, "invoice", merchant_id=merchant, limit=limit, status=status, customer=customer)
        rows = [{name: row[name] for name in _COLUMNS} for row in found]
        show(rows, _COLUMNS, as_json=as_json, empty="No such invoices.")


@commands.command("show")
def show_invoice(invoice_id: InvoiceId, as_json: Json = False) -> None:
    """Show one, with its documents. Amounts are in minor units."""
    with opened() as env, env.database.read() as tx:
        show_one(_shown(tx, invoice_id), as_json=as_json)


@commands.command("draft")
def draft(
    terms: TermsFile,
    key: Key = None,
    finalize: Annotated[bool, typer.Option("--finalize", help="Issue it at once.")] = False,
    merchant: Owner = None,
    as_json: Json = False,
) -> None:
    """Make an invoice of billhook's own."""
    from billhook.actions import invoices
    from billhook.actions.limits import check_room
    from billhook.actions.ringing import ring

    with opened() as env:
        asked = invoices.check(read_json(terms, Terms))
        with env.database.read() as tx:
            owner = get_merchant(tx, owner_of(tx, merchant))
            assert owner is not None
        prepared = invoices.prepare(owner, asked.terms, env.clock(), asked.charged) if finalize else None
        with env.database.begin() as tx:
            check_room(env, tx, owner.id, "drafts", env.clock())
            steps = [invoices.draft(tx, owner, asked, key, now=env.clock())]
            made = steps[0].invoice
            if finalize and made.state == "draft":
                steps.append(invoices.finalize(tx, made.id, prepared=prepared, now=env.clock()))
            invoice = _shown(tx, made.id)
        for step in steps:
            ring(env, step.rings)
        show_one(invoice, as_json=as_json)


@commands.command("finalize")
def finalize(invoice_id: InvoiceId, as_json: Json = False) -> None:
    """Issue a draft: it gets its number."""
    from billhook.actions import invoices

    with opened() as env:
        prepared = invoices.prepared_draft(env.database, invoice_id, env.clock())
    _do(invoice_id, lambda tx, now: invoices.finalize(tx, invoice_id, prepared=prepared, now=now), as_json=as_json)


@commands.command("pay")
def pay(
    invoice_id: InvoiceId,
    paid_at: Annotated[str | None, typer.Option(help="A time with its offset. Left out: now.")] = None,
    reference: Annotated[str | None, typer.Option(help="What the bank calls the payment.")] = None,
    method: Annotated[str | None, typer.Option(help="How it was paid: the receipt says so.")] = None,
    as_json: Json = False,
) -> None:
    """Say that all that was open has been paid."""
    from billhook.actions import invoices

    def verb(tx: Tx, now: datetime) -> Step:
        at = None if paid_at is None else _instant(paid_at)
        return invoices.pay(tx, invoice_id, paid_at=at, reference=reference, method=method, now=now)

    _do(invoice_id, verb, as_json=as_json)


@commands.command("void")
def void(invoice_id: InvoiceId, as_json: Json = False) -> None:
    """Declare an unpaid invoice void. It keeps its number."""
    from billhook.actions import invoices

    _do(invoice_id, lambda tx, now: invoices.void(tx, invoice_id, now=now), as_json=as_json)


@commands.command("write-off")
def write_off(invoice_id: InvoiceId, as_json: Json = False) -> None:
    """Give up on the money. It can still be paid, or be declared void."""
    from billhook.actions import invoices

    _do(invoice_id, lambda tx, now: invoices.write_off(tx, invoice_id, now=now), as_json=as_json)


@commands.command("delete")
def delete(invoice_id: InvoiceId, as_json: Json = False) -> None:
    """Delete a draft."""
    from billhook.actions import invoices
    from billhook.actions.ringing import ring

    with opened() as env:
        prepared = invoices.prepared_draft(env.database, invoice_id, env.clock())
        with env.database.begin() as tx:
            _find(tx, invoice_id)
            step = invoices.delete_draft(tx, invoice_id, now=env.clock(), prepared=prepared)
        ring(env, step.rings)
        say(f"{invoice_id} is deleted.", as_json=as_json, id=invoice_id, status="deleted")


@commands.command("credit")
def credit(
    invoice_id: InvoiceId,
    terms: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="What to take back, as JSON, as the desk's API takes it; `-` reads it. Left out: all.",
        ),
    ] = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a credit note."""
    from billhook.actions import invoices
    from billhook.actions.ringing import ring

    with opened() as env:
        asked = CreditTerms() if terms is None else read_json(terms, CreditTerms)
        prepared = invoices.prepared_credit(env.database, invoice_id, asked)
        with env.database.begin() as tx:
            _find(tx, invoice_id)
            step = invoices.credit(tx, invoice_id, asked, key, now=env.clock(), prepared=prepared)
        ring(env, step.rings)
        note = step.credit_note
        assert note is not None
        shown = {
            name: getattr(note, name) for name in ("id", "number", "invoice_id", "currency", "total", "created_at")
        }
        show_one({**shown, "replayed": step.replayed}, as_json=as_json)


@commands.command("send")
def send(
    invoice_id: InvoiceId,
    kind: Annotated[
        str | None, typer.Option(help="invoice, receipt or void. Left out: what its state calls for.")
    ] = None,
    to: Annotated[list[str] | None, typer.Option(help="An address; repeatable. Left out: the buyer's.")] = None,
    as_json: Json = False,
) -> None:
    """Mail a document of an invoice, of a mirrored one too."""
    from billhook.actions import invoices
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.read() as tx:
            known = invoices.heads(tx, invoice_id)
        with env.database.begin() as tx:
            _find(tx, invoice_id)
            public, now = env.settings.public, env.clock()
            sending = invoices.send(tx, invoice_id, kind, to or None, public=public, anyone=True, now=now, known=known)
        ring(env, sending.rings)
        show_one({"document_id": sending.document_id, "to": sending.to, "waiting": sending.waiting}, as_json=as_json)


MOST_SKIPPED = 100_000


@commands.command("count-from")
def count_from(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="What stands before the number: INV-, CN-2026-…")],
    last: Annotated[int, typer.Argument(metavar="LAST", help="The last number that was given out.", min=1)],
    merchant: Owner = None,
    as_json: Json = False,
) -> None:
    """Go on behind a number that the ledger does not know of: after a backup was restored, or from another system.

    A number is on one document for good. Of those that are skipped, reconciliation says once that they are nowhere.
    """
    from billhook.store.operator_actions import note_action
    from billhook.store.series import count_on_from, last_number

    with opened() as env, env.database.begin() as tx:
        owner = owner_of(tx, merchant)
        known = last_number(tx, owner, series)
        if last - known > MOST_SKIPPED:
            raise CommandError(f"{last} is {last - known} behind {known}, the last of {series!r}: a mistake?")
        if not count_on_from(tx, owner, series, last):
            raise CommandError(f"{series!r} is at {known} already, and numbers never go back.")
        detail = {"from": known, "to": last}
        note_action(tx, "invoice.count_from", series, by=done_by(), now=env.clock(), merchant_id=owner, detail=detail)
        show_one({"merchant_id": owner, "series": series, "last": last, "skipped": last - known}, as_json=as_json)


@commands.command("export")
def export_invoices(
    since: Annotated[str | None, typer.Option("--from", help="A day, in the merchant's zone, or a time.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Before then, likewise.")] = None,
    status: Annotated[str | None, typer.Option(help="Only those.")] = None,
    form: Annotated[Format, typer.Option("--format", help="csv (major units) or jsonl (minor units).")] = "csv",
    mode: Annotated[
        Mode, typer.Option(help="test: what sources in test mode told, in place of what is real.")
    ] = "live",
    credit_notes: Annotated[bool, typer.Option("--credit-notes", help="The credit notes instead.")] = False,
    preset: Annotated[
        Preset | None, typer.Option(help="excel: for one with decimal commas: semicolons, a BOM, plain times.")
    ] = None,
    delimiter: Annotated[Delimiter | None, typer.Option(help="Of a CSV; a comma where nothing else is said.")] = None,
    decimals: Annotated[Decimals | None, typer.Option(help="Before them: a point, or a comma.")] = None,
    bom: Annotated[bool | None, typer.Option("--bom/--no-bom", help="Begin with a byte order mark.")] = None,
    merchant: Narrow = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Write a period's invoices, or its credit notes, to standard output."""
    from billhook.actions.exports import export, period

    style = style_of(preset, delimiter=delimiter, decimals=decimals, bom=bom)
    kind: Kind = "credit_note" if credit_notes else "invoice"
    form = "jsonl" if as_json else form
    with opened() as env:
        begins, ends = period(env, merchant, since, until)
        pages = export(env, kind, merchant, form, since=begins, until=ends, status=status, mode=mode, style=style)
        for page in pages:
            sys.stdout.buffer.write(page)


def _instant(text: str) -> datetime:
    try:
        return convert(text, datetime)
    except msgspec.ValidationError:
        raise CommandError(f"A time is written 2026-01-31T09:00:00Z, not {text!r}.") from None
