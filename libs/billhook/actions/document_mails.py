"""Sending documents by mail: at once where the file is there, and else as soon as the invoicer has made it.

The words of a mail are the document's own, so they are in its language. It goes out in the seller's name, and answers
go to the seller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

import msgspec
import sqlalchemy as sa

from billhook.documents.hosted_page import shown_now
from billhook.documents.mail_page import Action, MailPage, mail_html
from billhook.documents.view import Shown, shown
from billhook.documents.words import hosted_words
from billhook.errors import Refused, Unprocessable
from billhook.outlets.mail.mime import can_be_reached, header_text, recipient
from billhook.rules.book.invoice import Invoice
from billhook.rules.document import Snapshot
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.documents import (
    documents_to_mail,
    latest_document,
    list_documents,
    read_snapshot,
    set_mail_to,
)
from billhook.store.links import create_link
from billhook.store.mails import Attachment, NewMail, add_mails, written
from billhook.store.own_credit_notes import get_own_credit_note
from billhook.store.work import DEAD, Row

_UNSAFE: Final = re.compile(r'[\s\x00-\x1f\x7f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069]+')
"""What some system has no files named with, and what turns a name around. Letters of any script may stay."""
_LONGEST_NAME: Final = 100
_LONGEST_SUBJECT: Final = 200
_LINK_LASTS: Final = timedelta(days=90)


@dataclass(frozen=True)
class Sending:
    document_id: str
    to: list[str]
    waiting: bool
    """The file is still to be made; the mails follow it."""
    rings: dict[str, list[str]] = field(default_factory=dict)


_Row = sa.RowMapping | Row
"""Of a document."""

Heads = Mapping[str, Snapshot]
"""What documents show, without their lines, by their ids. Of thousands of lines that takes a while to read, so it is
read before the transaction that sends opens, where it can be: a document's snapshot never changes."""


def heads(tx: Tx, subject_id: str) -> Heads:
    """Of all documents of an invoice or credit note."""
    return {row["id"]: head(read_snapshot(row["snapshot"])) for row in list_documents(tx, subject_id)}


def head(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(snapshot, lines=())


def send(
    tx: Tx,
    subject_id: str,
    kind: str | None,
    to: Sequence[str] | None = None,
    *,
    public: str,
    anyone: bool,
    now: datetime,
    known: Heads = MappingProxyType({}),
) -> Sending:
    """Mail a document of an invoice or credit note: by default what an invoice's state calls for, to the buyer.
    Asked twice within a minute, it sends one mail. The caller has checked that the subject is the merchant's.

    `public`: where customers reach the desk. `anyone`: addresses other than the buyer's are allowed."""
    kind = kind or _called_for(tx, subject_id)
    # Locked: either the invoicer has settled it, and the mail is added here, or the invoicer will find the addresses
    # when it does.
    row = latest_document(tx, subject_id, kind, lock=True)
    if row is None:
        raise Refused("document_unknown", f"There is no document of kind {kind!r}: its state calls for none.")
    if row["state"] == DEAD:
        raise Refused("document_failed", f"The document could not be made: {row['last_error']}")
    snapshot = _head_of(row, known)
    addresses = _addresses(snapshot, to, anyone)
    if row["state"] != "ready":
        set_mail_to(tx, row["id"], sorted({*(row["mail_to"] or ()), *addresses}))
        return Sending(row["id"], addresses, waiting=True)
    mails = _mails(tx, row, snapshot, addresses, f"{now.astimezone(UTC):%Y-%m-%dT%H:%MZ}", public, now)
    return Sending(row["id"], addresses, waiting=False, rings={"mails": add_mails(tx, mails, now)})


def mails_for(
    tx: Tx, document_ids: Collection[str], *, public: str, now: datetime, known: Heads = MappingProxyType({})
) -> list[NewMail]:
    """The mails to send for documents whose files were just made. Called after `set_files`, in the transaction that
    marks the documents ready: it holds the rows, so no addresses are added meanwhile."""
    return [
        mail
        for row in documents_to_mail(tx, document_ids)
        for mail in _mails(tx, row, _head_of(row, known), row["mail_to"], "ready", public, now)
    ]


def _head_of(row: _Row, known: Heads) -> Snapshot:
    found = known.get(row["id"])
    return head(read_snapshot(row["snapshot"])) if found is None else found


def _called_for(tx: Tx, invoice_id: str) -> str:
    """The receipt of what is paid and the copy of what is void, where there is one."""
    found = book.get(tx, "invoice", invoice_id)
    kind = {"paid": "receipt", "void": "void"}.get(found["status"] if found else "", "invoice")
    return kind if latest_document(tx, invoice_id, kind) is not None else "invoice"


def _said(tx: Tx, row: _Row, issued: Snapshot) -> Shown:
    """What an invoice's document says or, where something became of the invoice since, would say now: a mail does not
    ask for money that came, or that nobody wants any more."""
    found = book.get(tx, "invoice", row["subject_id"]) if row["kind"] == "invoice" else None
    if found is None:
        return shown(issued)
    invoice = book.value_of("invoice", found)
    assert isinstance(invoice, Invoice)
    if invoice.status == "open" and invoice.amount_remaining == issued.amount_remaining:
        return shown(issued)
    return shown_now(issued, invoice)


def _addresses(snapshot: Snapshot, to: Sequence[str] | None, anyone: bool) -> list[str]:
    theirs = snapshot.buyer.email if snapshot.buyer else None
    if to is None:
        to = [theirs] if theirs else []
    if not to:
        raise Refused("recipient_missing", "The buyer has no address: say in `to` whom to send it to.")
    try:
        for address in to:
            recipient(address)
    except Unprocessable as error:
        raise Refused("recipient_invalid", f"`to`: {error}") from None
    if not anyone and set(to) - {theirs}:
        raise Refused(
            "recipient_other",
            f"`to` may name the buyer's address alone ({theirs or 'there is none'}): the operator of this billhook has"
            " not allowed merchants to write to others (BILLHOOK_MAIL_TO_ANYONE).",
        )
    return sorted(set(to))


def _mails(
    tx: Tx,
    row: _Row,
    snapshot: Snapshot,
    addresses: Sequence[str],
    occasion: str,
    public: str,
    now: datetime,
) -> list[NewMail]:
    """One a new address, and with it a link to the page that shows the invoice: of links only a digest is kept, so each
    mail has its own."""
    about = {f"document:{row['id']}:{occasion}:{address}": address for address in addresses}
    there = written(tx, row["merchant_id"], about)
    fresh = {key: address for key, address in about.items() if key not in there}
    if not fresh:
        return []
    said = _said(tx, row, snapshot)
    note = get_own_credit_note(tx, row["subject_id"]) if row["kind"] == "credit_note" else None
    invoice_id = note.invoice_id if note else row["subject_id"]
    mails = []
    for key, address in fresh.items():
        _, token = create_link(tx, row["merchant_id"], invoice_id, now + _LINK_LASTS, now)
        mails.append(_mail(row, said, key, address, f"{public}/i/{token}", snapshot.seller.email))
    return mails


def _mail(row: _Row, said: Shown, about: str, address: str, page: str, seller_email: str | None) -> NewMail:
    seller = header_text(said.seller.name)
    pay = [Action(said.labels.pay_online, said.pay_url)] if said.pay_url else []
    actions = [*pay, Action(hosted_words(said.language).view, page)]
    links = [f"{action.label}: {action.url}" for action in actions]
    notice = said.test.note if said.test else None
    paragraphs = [
        *filter(None, (notice,)),
        said.name,
        said.headline,
        *links,
        "\n".join([said.seller.name, *said.seller.lines]),
    ]
    return NewMail(
        row["merchant_id"],
        about,
        address,
        header_text(f"{said.name} – {seller}")[:_LONGEST_SUBJECT],
        "\n\n".join(paragraphs) + "\n",
        (
            Attachment(
                f"{_UNSAFE.sub('-', said.name)[:_LONGEST_NAME]}.pdf",
                "application/pdf",
                row["object_key"],
                row["sha256"],
            ),
        ),
        html=mail_html(
            MailPage(
                language=said.language,
                direction=said.direction,
                seller=said.seller.name,
                notice=notice,
                title=said.headline,
                paragraphs=(said.name,),
                actions=tuple(actions),
                foot=(said.seller.name, *said.seller.lines),
                accent=said.accent,
                accent_ink=said.accent_ink,
            )
        ),
        sender_name=seller,
        reply_to=seller_email if can_be_reached(seller_email) else None,
        traceparent=row["traceparent"],
    )
