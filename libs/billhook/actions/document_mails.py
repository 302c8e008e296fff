"""Sending documents by mail: at once where the file is there, and else as soon as the invoicer has made it.

The words of a mail are the document's own, so they are in its language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from billhook.documents.hosted_page import shown_now
from billhook.documents.view import Shown, shown
from billhook.errors import Refused, Unprocessable
from billhook.outlets.mail.mime import recipient
from billhook.rules.book import Invoice
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import documents_by_id, latest_document, read_snapshot, set_mail_to
from billhook.store.mails import Attachment, NewMail, add_mails
from billhook.store.work import DEAD

_UNSAFE: Final = re.compile(r'[\s\x00-\x1f\x7f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069]+')
"""What some system has no files named with, and what turns a name around. Letters of any script may stay."""
_LONGEST_NAME: Final = 100
_LONGEST_SUBJECT: Final = 200


@dataclass(frozen=True)
class Sending:
    document_id: str
    to: list[str]
    waiting: bool
    """The file is still to be made; the mails follow it."""
    rings: dict[str, list[str]] = field(default_factory=dict)


def send(tx: Tx, subject_id: str, kind: str | None, to: Sequence[str] | None = None, *, now: datetime) -> Sending:
    """Mail a document of an invoice or credit note: by default what an invoice's state calls for, to the buyer.
    Asked twice within a minute, it sends one mail. The caller has checked that the subject is the merchant's."""
    kind = kind or _called_for(tx, subject_id)
    # Locked: either the invoicer has settled it, and the mail is added here, or the invoicer will find the addresses
    # when it does.
    row = latest_document(tx, subject_id, kind, lock=True)
    if row is None:
        raise Refused("document_unknown", f"There is no document of kind {kind!r}: its state calls for none.")
    if row["state"] == DEAD:
        raise Refused("document_failed", f"The document could not be made: {row['last_error']}")
    addresses = _addresses(row, to)
    if row["state"] != "ready":
        set_mail_to(tx, row["id"], sorted({*(row["mail_to"] or ()), *addresses}))
        return Sending(row["id"], addresses, waiting=True)
    said = _now(tx, row) or shown(read_snapshot(row["snapshot"]))
    mails = [_mail(row, said, address, f"{now.astimezone(UTC):%Y-%m-%dT%H:%MZ}") for address in addresses]
    return Sending(row["id"], addresses, waiting=False, rings={"mails": add_mails(tx, mails, now)})


def mails_for(tx: Tx, documents: Mapping[str, Shown]) -> list[NewMail]:
    """The mails to send for documents whose files were just made. `documents`: what each says, by its id; the invoicer
    has that already, and for thousands of lines it takes a second. Called after `set_files`, in the transaction that
    marks the documents ready: it holds the rows, so no addresses are added meanwhile."""
    return [
        _mail(row, _now(tx, row) or documents[row["id"]], address, "ready")
        for row in documents_by_id(tx, documents)
        if row["object_key"] is not None
        for address in row["mail_to"] or ()
    ]


def _called_for(tx: Tx, invoice_id: str) -> str:
    """The receipt of what is paid and the copy of what is void, where there is one."""
    found = book.get(tx, "invoice", invoice_id)
    kind = {"paid": "receipt", "void": "void"}.get(found["status"] if found else "", "invoice")
    return kind if latest_document(tx, invoice_id, kind) is not None else "invoice"


def _now(tx: Tx, row: sa.RowMapping) -> Shown | None:
    """What an invoice's document would say now, where something became of the invoice since: a mail does not ask for
    money that came, or that nobody wants any more."""
    found = book.get(tx, "invoice", row["subject_id"]) if row["kind"] == "invoice" else None
    if found is None:
        return None
    issued, invoice = read_snapshot(row["snapshot"]), book.value_of("invoice", found)
    assert isinstance(invoice, Invoice)
    if invoice.status == "open" and invoice.amount_remaining == issued.amount_remaining:
        return None
    return shown_now(issued, invoice)


def _addresses(row: sa.RowMapping, to: Sequence[str] | None) -> list[str]:
    if to is None:
        buyer = read_snapshot(row["snapshot"]).buyer
        to = [buyer.email] if buyer and buyer.email else []
    if not to:
        raise Refused("recipient_missing", "The buyer has no address: say in `to` whom to send it to.")
    try:
        for address in to:
            recipient(address)
    except Unprocessable as error:
        raise Refused("recipient_invalid", f"`to`: {error}") from None
    return sorted(set(to))


def _mail(row: sa.RowMapping, said: Shown, address: str, occasion: str) -> NewMail:
    name = _UNSAFE.sub("-", said.name)[:_LONGEST_NAME]
    pay = [f"{said.labels.pay_online}: {said.pay_url}"] if said.pay_url else []
    paragraphs = [said.name, said.headline, *pay, "\n".join([said.seller.name, *said.seller.lines])]
    return NewMail(
        row["merchant_id"],
        f"document:{row['id']}:{occasion}:{address}",
        address,
        # One line, so that a text that someone else wrote cannot become a header.
        " ".join(f"{said.name} – {said.seller.name}".split())[:_LONGEST_SUBJECT],
        "\n\n".join(paragraphs) + "\n",
        (
            Attachment(
                f"{name}.pdf",
                "application/pdf",
                row["object_key"],
                row["sha256"],
            ),
        ),
    )
