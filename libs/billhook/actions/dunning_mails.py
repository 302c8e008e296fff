"""What the customer of a case is told by mail: that a payment failed and what comes next, reminders, and where to pay.

A mail is written in the transaction of its step, once for each occasion. When the case ends, what was not sent yet is
withdrawn: nobody is asked for money that came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from billhook.documents import colours
from billhook.documents.mail_page import Action, MailPage, mail_html
from billhook.documents.wording import Wording
from billhook.documents.words import DunningWords, direction_of, dunning_words, words_for
from billhook.outlets.mail.mime import can_be_reached, header_text
from billhook.queue.handler import Rings
from billhook.rules.dunning_policy import MailKind, filled_in
from billhook.rules.money import parse_locale
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case
from billhook.store.dunning_policies import PolicyVersion
from billhook.store.links import create_link
from billhook.store.mails import NewMail, add_mails, withdraw_mails
from billhook.store.merchants import Merchant, merchants_of
from billhook.store.own_invoices import OWN, get_own_invoice

LINK_OUTLIVES: Final = timedelta(days=30)
"""How long after the end of the case the link of a mail still shows the invoice."""


@dataclass(frozen=True)
class CaseMail:
    """What the customer of a case is to be told."""

    case: Case
    version: PolicyVersion
    kind: MailKind
    occasion: str
    next_at: datetime | None = None
    """When the payment is tried again."""


def write_to_customers(tx: Tx, mails: Sequence[CaseMail], now: datetime, *, public: str | None = None) -> Rings:
    """A mail for each. Nothing where nobody knows the customer's address. `public` is where customers reach the desk:
    an own invoice without a link of its merchant's is shown there."""
    if not mails:
        return {}
    merchants = merchants_of(tx, {mail.case.merchant_id for mail in mails})
    billed = book.billed_to(tx, {mail.case.invoice_id for mail in mails})
    new = []
    for mail in mails:
        merchant = merchants.get(mail.case.merchant_id)
        to = billed.get(mail.case.invoice_id)
        if merchant is not None and to is not None and can_be_reached(to.email):
            new.append(_mail(tx, mail, merchant, to.email, to, now, public))
    return {"mails": add_mails(tx, new, now)}


def _mail(
    tx: Tx, mail: CaseMail, merchant: Merchant, email: str, to: book.BilledTo, now: datetime, public: str | None
) -> NewMail:
    case, kind, next_at = mail.case, mail.kind, mail.next_at
    own = get_own_invoice(tx, case.invoice_id) if case.source_id == OWN else None
    locale = (own.terms.locale if own else None) or merchant.locale
    link = case.pay_url
    if link is None and own is not None and public is not None:
        # Made for this mail alone: of links only a digest is kept, so that a copy of the database opens nothing.
        _, token = create_link(tx, case.merchant_id, case.invoice_id, case.ends_at + LINK_OUTLIVES, now)
        link = f"{public}/i/{token}"
    wording, words = Wording(locale, case.currency, case.zone), dunning_words(parse_locale(locale))
    values = {
        "number": case.number or case.invoice,
        "amount": wording.money(case.amount),
        "date": wording.day(next_at if kind in ("failed", "upcoming") and next_at else case.opened_at),
        "link": link or "",
        "customer": to.name or "",
        "merchant": merchant.name,
    }
    theirs = mail.version.policy.mails.get(kind)
    if theirs is not None:
        subject, text = filled_in(theirs.subject, values), filled_in(theirs.text, values)
    else:
        subject, text = _ours(words, kind, case.cause, values, next_at is not None)
    language, labels = words_for(wording.locale)
    if not to.livemode:
        subject, text = f"{labels.test} {subject}", f"{labels.test_note}\n\n{text}"
    subject, seller = header_text(subject)[:200], merchant.seller
    accent = colours.accent(seller.accent)
    page = MailPage(
        language=language,
        direction=direction_of(language),
        seller=seller.name,
        title=subject,
        paragraphs=tuple(text.strip().split("\n\n")),
        actions=(Action(labels.pay_online, link),) if link else (),
        accent=accent,
        accent_ink=colours.ink(accent),
    )
    return NewMail(
        case.merchant_id,
        f"{_about(case)}{mail.occasion}",
        email,
        subject,
        text,
        html=mail_html(page),
        sender_name=header_text(seller.name),
        reply_to=seller.email if can_be_reached(seller.email) else None,
        traceparent=case.traceparent,
    )


def withdraw(tx: Tx, cases: Sequence[Case]) -> None:
    """Take back what was written about cases and not sent yet."""
    for merchant_id in sorted({case.merchant_id for case in cases}):
        withdraw_mails(tx, merchant_id, [_about(case) for case in cases if case.merchant_id == merchant_id])


def _about(case: Case) -> str:
    return f"dunning:{case.id}:"


def _ours(
    words: DunningWords, kind: MailKind, cause: str | None, values: dict[str, str], tried_again: bool
) -> tuple[str, str]:
    said: dict[MailKind, tuple[str, str]] = {
        "failed": (words.subject_failed, words.collect_failed),
        "upcoming": (words.subject_upcoming, words.upcoming),
        "friendly": (words.subject_reminder, words.remind_friendly),
        "due": (words.subject_reminder, words.remind_due),
        "overdue": (words.subject_reminder, words.remind_overdue),
        "last": (words.subject_reminder, words.remind_last),
    }
    subject, first = said[kind]
    lines = [first]
    if kind == "failed":
        if cause == "action_required":
            lines.append(words.confirm)
        elif cause in ("declined_for_good", "method_missing"):
            lines.append(words.other_method)
        elif tried_again:
            lines.append(words.try_again)
    if values["link"]:
        lines.append(words.pay_here)
    text = "\n\n".join(filled_in(line, values) for line in [*lines, "{merchant}"])
    return filled_in(subject, values), f"{text}\n"
