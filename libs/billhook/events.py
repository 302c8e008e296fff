"""The domain events: one vocabulary, the same names that merchants subscribe to.

A name is `<object>.<what happened>`, in the past tense. Names and the fields of their objects only ever grow within
one version; `docs/events.md` is generated from this file.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

VERSION: Final = "v1"

DOMAIN_EVENTS: Final[dict[str, tuple[str, str]]] = {
    # name: (kind of the object it carries, when it is sent)
    "customer.created": ("customer", "A customer was created."),
    "customer.updated": ("customer", "A customer's details changed."),
    "customer.deleted": ("customer", "A customer was deleted."),
    "product.created": ("product", "A product was added to the catalogue."),
    "product.updated": ("product", "A product changed."),
    "product.deleted": ("product", "A product was removed."),
    "price.created": ("price", "A price was added to the catalogue."),
    "price.updated": ("price", "A price changed."),
    "price.deleted": ("price", "A price was removed."),
    "subscription.created": ("subscription", "A subscription was created."),
    "subscription.updated": ("subscription", "A subscription changed: status, items, period or payment method."),
    "subscription.canceled": ("subscription", "A subscription ended."),
    "subscription.paused": ("subscription", "A subscription was paused."),
    "subscription.resumed": ("subscription", "A paused subscription runs again."),
    "subscription.trial_ending": ("subscription", "A trial ends soon (Stripe: three days ahead)."),
    "subscription_schedule.created": ("subscription_schedule", "A subscription's later changes were planned."),
    "subscription_schedule.updated": ("subscription_schedule", "The plan changed, or a phase began."),
    "subscription_schedule.expiring": ("subscription_schedule", "The plan ends soon (Stripe: seven days ahead)."),
    "subscription_schedule.completed": ("subscription_schedule", "All phases of the plan are over."),
    "subscription_schedule.released": (
        "subscription_schedule",
        "The plan was taken off its subscription, which goes on as it is.",
    ),
    "subscription_schedule.canceled": ("subscription_schedule", "The plan was canceled, and the subscription with it."),
    "subscription_schedule.aborted": (
        "subscription_schedule",
        "The plan was canceled because the subscription's payment failed.",
    ),
    "invoice.created": ("invoice", "An invoice was drafted."),
    "invoice.updated": ("invoice", "An invoice changed."),
    "invoice.finalized": ("invoice", "An invoice became final: it has its number and is to be paid."),
    "invoice.paid": ("invoice", "An invoice was paid in full."),
    "invoice.payment_failed": ("invoice", "A try to collect an invoice failed."),
    "invoice.payment_action_required": ("invoice", "Paying an invoice needs a step by the customer (3-D Secure)."),
    "invoice.overdue": ("invoice", "An invoice is past its due date."),
    "invoice.voided": ("invoice", "An invoice was voided; it keeps its number."),
    "invoice.marked_uncollectible": ("invoice", "An invoice was written off."),
    "invoice.deleted": ("invoice", "A draft was deleted."),
    "payment.created": ("payment", "A payment was begun."),
    "payment.processing": ("payment", "A payment is on its way; its result comes later."),
    "payment.action_required": ("payment", "A payment needs a step by the customer (3-D Secure)."),
    "payment.succeeded": ("payment", "A payment succeeded."),
    "payment.failed": ("payment", "A payment was declined or failed."),
    "payment.canceled": ("payment", "A payment was canceled."),
    "charge.succeeded": (
        "charge",
        "A charge with no payment behind it succeeded; otherwise `payment.succeeded` says it.",
    ),
    "charge.failed": (
        "charge",
        "A charge with no payment behind it was declined or failed; otherwise `payment.failed`.",
    ),
    "charge.refunded": ("charge", "A charge was refunded, wholly or in part."),
    "invoice_payment.paid": ("invoice_payment", "A payment was applied to an invoice."),
    "refund.created": ("refund", "A refund was begun."),
    "refund.updated": ("refund", "A refund changed."),
    "refund.failed": ("refund", "A refund failed."),
    "credit_note.created": ("credit_note", "A credit note was issued."),
    "credit_note.updated": ("credit_note", "A credit note changed."),
    "credit_note.voided": ("credit_note", "A credit note was voided."),
    "dispute.created": ("dispute", "A customer disputed a charge with their bank."),
    "dispute.updated": ("dispute", "A dispute changed."),
    "dispute.closed": ("dispute", "A dispute was won, lost or withdrawn."),
    "checkout.completed": ("checkout_session", "A checkout was completed."),
    "checkout.expired": ("checkout_session", "A checkout expired unpaid."),
    "checkout.payment_succeeded": ("checkout_session", "A delayed payment of a checkout arrived."),
    "checkout.payment_failed": ("checkout_session", "A delayed payment of a checkout failed."),
}

OPERATIONAL_EVENTS: Final[dict[str, tuple[str, str]]] = {
    # What billhook says of itself. They carry no object of the book, and no provider or sender can cause them.
    "endpoint.failing": (
        "endpoint",
        "Nothing has reached an endpoint since `failing_since`. Your other endpoints hear of it after 12 hours, and"
        " again half way to `disables_at`.",
    ),
    "endpoint.disabled": (
        "endpoint",
        "An endpoint was disabled after failing for five days, or because it answered 410. What comes is held for it.",
    ),
    "mail.refused": (
        "mail",
        "A mail was refused for good or given up: an address that does not exist, a full mailbox. `reason` has the mail"
        " server's words.",
    ),
    "dunning.case_opened": (
        "dunning_case",
        "A payment failed, or an invoice of billhook's own is past its due date: from here on somebody looks after it.",
    ),
    "dunning.attempt_scheduled": ("dunning_case", "The payment will be tried again at `next_attempt_at`."),
    "dunning.attempt_failed": ("dunning_case", "It was tried again in vain; `decline_code` has the bank's reason."),
    "dunning.recovered": ("dunning_case", "The money came, by whatever way. The case is closed."),
    "dunning.exhausted": ("dunning_case", "The case is given up, and `final_action` is taken. The case is closed."),
    "dunning.canceled": (
        "dunning_case",
        "There is nothing to collect any more, or nobody is to: `cause` says why. The case is closed.",
    ),
    "customer.standing_changed": ("standing", "A customer is in grace, suspended, or active again."),
    "reconciliation.finding_confirmed": (
        "finding",
        "The book differs from what a provider shows, and it lasts: an event never came, or told something else. Where"
        " `state` is `repaired`, the book was told again already.",
    ),
    "reconciliation.run_completed": (
        "reconciliation_run",
        "A comparison of a source with its provider ended. `incomplete`: `notes` say what could not be compared.",
    ),
    "ping": ("endpoint", "Somebody tests the endpoint that this is sent to. It comes whatever that asked for."),
}


class MailNews(msgspec.Struct, frozen=True, kw_only=True):
    """A mail of yours that did not arrive. It is an object of billhook's own, without `source` and `account`."""

    id: str
    object: str = "mail"
    recipient: str
    subject: str
    about: str
    """What it was about: `document:<id>:…` is an invoice, a receipt or a credit note."""
    reason: str


class EndpointNews(msgspec.Struct, frozen=True, kw_only=True):
    """One of your endpoints. It is an object of billhook's own, without `source` and `account`."""

    id: str
    object: str = "endpoint"
    url: str
    failing_since: datetime | None = None
    last_error: str | None = None
    disables_at: datetime | None = None
    disabled_at: datetime | None = None


class DunningNews(msgspec.Struct, frozen=True, kw_only=True):
    """The case of an invoice that is not paid. It is an object of billhook's own; `source` and `account` are those of
    the invoice."""

    id: str
    object: str = "dunning_case"
    source: str
    account: str | None = None
    invoice: str
    """billhook's id of it."""
    invoice_external_id: str
    invoice_number: str | None = None
    customer: str | None = None
    subscription: str | None = None
    currency: str
    amount: int
    """What is open of the invoice."""
    stage: str
    cause: str | None = None
    policy: str
    opened_at: datetime
    grace_until: datetime
    ends_at: datetime
    closed_at: datetime | None = None
    next_attempt_at: datetime | None = None
    decline_code: str | None = None
    pay_url: str | None = None
    """Where the customer can pay."""
    final_action: str | None = None


class StandingNews(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a customer may have what they pay for. An object of billhook's own."""

    id: str
    object: str = "standing"
    customer: str
    state: str
    """active, grace or suspended."""
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None
    invoices: tuple[str, ...] = ()


class FindingNews(msgspec.Struct, frozen=True, kw_only=True):
    """Something that reconciliation found. It is an object of billhook's own; `source` is where it was found."""

    id: str
    object: str = "finding"
    source: str
    account: str | None = None
    """The connected account whose object it is, where it is one's."""
    finding_class: str
    """missing_event, missing_local, missing_remote, status_mismatch, amount_mismatch…"""
    state: str
    """confirmed, reopened or repaired."""
    kind: str
    """Of the object, or `event`."""
    external_id: str
    fields: tuple[str, ...] = ()
    """Those that differ."""
    amount: int | None = None
    """At stake, in minor units."""
    currency: str | None = None


class RunNews(msgspec.Struct, frozen=True, kw_only=True):
    """A run of reconciliation. It is an object of billhook's own; `source` is what was compared."""

    id: str
    object: str = "reconciliation_run"
    source: str
    state: str
    """done or incomplete."""
    since: datetime
    until: datetime
    compared: int
    confirmed: int
    repaired: int
    notes: tuple[str, ...] = ()
