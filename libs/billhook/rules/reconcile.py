"""What drifted: an object as its provider shows it beside the same object in the book, and what becomes of it.

A difference counts when it persists. The first look makes a suspicion. The second, a settle window later, confirms it
if neither side has moved in between: then the event that would tell of it did not come.

    suspected ─▶ confirmed ─▶ repaired ─▶ reopened (it is back)
        │            └──────▶ accepted ─▶ reopened (it is another one now)
        └─▶ gone, if it was only on its way
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, get_args

import msgspec

from billhook.decoding import convert
from billhook.events import DOMAIN_EVENTS
from billhook.rules.book.change import Change, Fact, Translation, complete
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import BookObject

FindingClass = Literal[
    "missing_local",
    "missing_remote",
    "currency_mismatch",
    "amount_mismatch",
    "status_mismatch",
    "period_mismatch",
    "stale_projection",
    "missing_event",
    "unprocessed_event",
    "conflict",
    "missing_document",
    "corrupt_document",
    "double_retry_owner",
    "duplicate_remote",
    "orphan_payment",
]
FINDING_CLASSES: Final[tuple[FindingClass, ...]] = get_args(FindingClass)
FindingState = Literal["suspected", "confirmed", "reopened", "repaired", "accepted"]
OPEN: Final[tuple[FindingState, ...]] = ("confirmed", "reopened")
"""What somebody, or a repair, has still to see to."""

FIELDS: Final[dict[str, dict[FindingClass, tuple[str, ...]]]] = {
    # kind: the fields that are compared, by what a difference in them is. The first class that differs names it all.
    "customer": {"stale_projection": ("name", "email", "default_payment_method")},
    "product": {"stale_projection": ("name", "active")},
    "price": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("unit_amount", "unit_amount_decimal"),
        "stale_projection": ("active", "product", "interval", "interval_count"),
    },
    "subscription": {
        "currency_mismatch": ("currency",),
        "status_mismatch": ("status", "cancel_at_period_end", "cancel_at"),
        "period_mismatch": ("current_period_start", "current_period_end", "trial_end"),
        "stale_projection": ("customer", "items", "default_payment_method", "collection_paused"),
    },
    "subscription_schedule": {
        "status_mismatch": ("status", "end_behavior"),
        "period_mismatch": ("current_phase_start", "current_phase_end"),
        "stale_projection": ("customer", "subscription"),
    },
    "invoice": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("total", "tax", "amount_due", "amount_paid", "amount_remaining"),
        "status_mismatch": ("status",),
        "stale_projection": ("number", "customer", "subscription", "attempt_count", "next_payment_attempt"),
    },
    "payment": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount", "amount_received"),
        "status_mismatch": ("status",),
        "stale_projection": ("customer",),
    },
    "charge": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount", "amount_captured", "amount_refunded"),
        "status_mismatch": ("status",),
        "stale_projection": ("payment", "customer"),
    },
    "invoice_payment": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount_paid",),
        "status_mismatch": ("status",),
        "stale_projection": ("invoice", "payment"),
    },
    "refund": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount",),
        "status_mismatch": ("status",),
        "stale_projection": ("payment", "charge"),
    },
    "credit_note": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("total", "tax"),
        "status_mismatch": ("status",),
        "stale_projection": ("invoice", "refund", "number", "customer"),
    },
    "dispute": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount",),
        "status_mismatch": ("status",),
        "stale_projection": ("charge", "payment"),
    },
    "checkout_session": {
        "currency_mismatch": ("currency",),
        "amount_mismatch": ("amount_total",),
        "status_mismatch": ("status", "payment_status"),
        "stale_projection": ("customer", "payment", "invoice", "subscription"),
    },
    # What is not an object of a provider's, but billhook's own work (`store/consistency/checks.py`).
    "event": {"missing_event": ("type",), "unprocessed_event": ("state",)},
    "inbox_conflict": {"conflict": ("sha256",)},
    "document": {"missing_document": ("document",)},
    "file": {"missing_document": ("file",), "corrupt_document": ("sha256",)},
    "dunning_case": {
        "double_retry_owner": ("owner_of_retries",),
        "missing_local": ("case",),
        "status_mismatch": ("stage",),
        "stale_projection": ("amount",),
    },
    "collected_payment": {
        "duplicate_remote": ("paid_by",),
        "orphan_payment": ("invoice",),
        "amount_mismatch": ("amount",),
    },
    "own_invoice": {
        "missing_local": ("entry",),
        "amount_mismatch": ("total", "amount_paid"),
        "status_mismatch": ("status",),
    },
    "number": {"missing_local": ("number",)},
    "number_series": {"status_mismatch": ("last",)},
    "delivery": {"missing_local": ("delivery",)},
    "delivery_attempts": {"status_mismatch": ("outcome",)},
}

_WHY_NOT: Final[dict[str, tuple[str, ...]]] = {
    # Why fields are not compared: the fields.
    "it is how the two are found": ("external_id",),
    "no provider changes it": ("created", "billing_reason", "mode", "client_reference_id", "usage_type"),
    "it is what `missing_local` and `missing_remote` are about": ("deleted",),
    "free text, of which nothing follows": (
        *("metadata", "phone", "address", "tax_exempt", "description", "footer", "memo", "nickname", "reason"),
        *("seller_name", "seller_country", "customer_name", "customer_email", "customer_address", "customer_tax_ids"),
        *("seller_tax_ids", "shipping_name", "shipping_address", "hosted_url", "evidence_due_at", "custom_fields"),
    ),
    "it follows from the status, which is compared": (
        *("canceled_at", "ended_at", "completed_at", "released_at", "finalized_at", "paid_at", "voided_at", "due_at"),
        *("period_start", "period_end", "collection_resumes_at"),
    ),
    "the sums that it is part of are compared": (
        *("subtotal", "discount", "credits", "shipping", "tax_included", "lines", "amount_requested", "amount_tax"),
        *("credited_before_payment", "credited_after_payment"),
    ),
    "it says how much of the object one answer showed": ("lines_complete", "items_complete"),
    "it is of the last try to pay, and whether that succeeded is compared": (
        *("failure_code", "decline_code", "failure_message", "failure_reason"),
    ),
    "no event tells it of the charge, and the dispute is compared": ("disputed",),
    "another object that is compared names the two": (
        *("invoice", "charge", "payment_record", "latest_invoice", "schedule", "phases", "currency"),
    ),
}
IGNORED: Final[dict[str, str]] = {name: why for why, names in _WHY_NOT.items() for name in names}
"""Fields of objects that are not compared, with the reason."""

_BY_A_PERSON: Final = frozenset(
    {
        *("amount_mismatch", "currency_mismatch", "missing_remote", "unprocessed_event", "conflict"),
        *("corrupt_document", "double_retry_owner", "duplicate_remote", "orphan_payment"),
    }
)
_KINDS_BY_A_PERSON: Final = frozenset({"own_invoice", "number", "number_series", "delivery_attempts"})
"""What people have issued or were sent: nothing of it is changed behind their backs."""

Difference = tuple[Any, Any]
"""What the book says, and what the provider says."""


class Drift(msgspec.Struct, frozen=True):
    """A difference between the book and the provider."""

    kind: str
    external_id: str
    finding_class: FindingClass
    differences: dict[str, Difference] = {}


def compare(local: BookObject | None, remote: BookObject | None) -> Drift | None:
    """How one object differs, if it does. None stands for an object that one side does not have; one that is deleted is
    nowhere to be had."""
    here = None if local is None or local.deleted else local
    there = None if remote is None or remote.deleted else remote
    if here is None:
        # What the book knows as deleted stays so: a list may still show what was deleted a moment ago.
        return Drift(there.kind, there.external_id, "missing_local") if there is not None and local is None else None
    if there is None:
        return Drift(here.kind, here.external_id, "missing_remote")
    differences: dict[str, Difference] = {}
    for names in FIELDS[here.kind].values():
        for name in names:
            if name == "items" and not (complete(here) and complete(there)):
                continue  # one side shows the first of them only
            if getattr(here, name) != getattr(there, name):
                differences[name] = (plain(getattr(here, name)), plain(getattr(there, name)))
    return drift_of(here.kind, here.external_id, differences)


def drift_of(kind: str, external_id: str, differences: Mapping[str, Difference]) -> Drift | None:
    """What it is when these fields differ; None where none of them does."""
    for finding_class, names in FIELDS[kind].items():
        if any(name in differences for name in names):
            return Drift(kind, external_id, finding_class, dict(differences))
    return None


def plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def at_stake(value: BookObject | None) -> tuple[int, str] | None:
    """How much money an object is about."""
    if value is None:
        return None
    currency = getattr(value, "currency", None)
    names = ("total",) if isinstance(value, Invoice) else ("amount", "total", "amount_paid", "amount_total")
    amounts = [amount for name in names if (amount := getattr(value, name, None)) is not None]
    return (amounts[0], currency) if amounts and currency else None


def repairs_itself(finding_class: FindingClass, kind: str) -> bool:
    """Whether the book is simply told again. What is about money, or undoes something, waits for a person."""
    return finding_class not in _BY_A_PERSON and kind not in _KINDS_BY_A_PERSON


def persists(version: str, seen: Mapping[str, Any], version_now: str, drift: Drift | None) -> bool | None:
    """What the second look says of a suspicion: True, it persists; False, it is gone; None, one of the two sides has
    moved since, so that what is seen now may be on its way. `version` is the book's, `seen` the differences, both as
    they were at the first look."""
    if drift is None:
        return False
    return True if (version, dict(seen)) == (version_now, told(drift)) else None


_STATUS_NEWS: Final[dict[tuple[str, str], str]] = {
    ("invoice", "open"): "invoice.finalized",
    ("invoice", "paid"): "invoice.paid",
    ("invoice", "void"): "invoice.voided",
    ("invoice", "uncollectible"): "invoice.marked_uncollectible",
    ("payment", "succeeded"): "payment.succeeded",
    ("payment", "processing"): "payment.processing",
    ("payment", "requires_action"): "payment.action_required",
    ("payment", "canceled"): "payment.canceled",
    ("subscription", "canceled"): "subscription.canceled",
    ("subscription", "paused"): "subscription.paused",
    ("subscription_schedule", "completed"): "subscription_schedule.completed",
    ("subscription_schedule", "released"): "subscription_schedule.released",
    ("subscription_schedule", "canceled"): "subscription_schedule.canceled",
    ("refund", "failed"): "refund.failed",
    ("credit_note", "void"): "credit_note.voided",
    ("dispute", "won"): "dispute.closed",
    ("dispute", "lost"): "dispute.closed",
    ("checkout_session", "complete"): "checkout.completed",
    ("checkout_session", "expired"): "checkout.expired",
    ("invoice_payment", "paid"): "invoice_payment.paid",
}


def news_of(drift: Drift, remote: BookObject) -> str | None:
    """What merchants hear when the book is told what it had missed: the state that the object has come to, else that
    it is new, or changed. Nobody knows any more what happened on the way."""
    status = getattr(remote, "status", None)
    names = [f"{drift.kind}.{'created' if drift.finding_class == 'missing_local' else 'updated'}"]
    if drift.finding_class == "missing_local" or "status" in drift.differences:
        names.insert(0, _STATUS_NEWS.get((drift.kind, str(status)), ""))
    if remote.deleted:
        names = [f"{drift.kind}.deleted"]
    return next((name for name in names if name in DOMAIN_EVENTS), None)


def told(drift: Drift) -> dict[str, list[Any]]:
    """The differences as they are kept: field → what the book says, what the provider says."""
    return {name: list(sides) for name, sides in drift.differences.items()}


def seen_again(state: FindingState, known: Mapping[str, Any], differences: Mapping[str, Any]) -> FindingState:
    """What a finding becomes that is confirmed once more."""
    if state == "accepted":
        return "accepted" if dict(known) == dict(differences) else "reopened"
    return "reopened" if state == "repaired" else "confirmed" if state == "suspected" else state


OBSERVED: Final = "billhook.observed"
"""The type of a synthetic event: an object as its provider showed it to the reconciler."""

UNSIGNED: Final = b"{}"
"""The headers of what billhook itself puts into the inbox. What a sender posts keeps those of its signature, so that
nobody can post a synthetic event."""


class Observed(msgspec.Struct, frozen=True):
    """The body of a synthetic event. It goes through the inbox, so that a repair has the effects that an event has."""

    kind: str
    object: dict[str, Any]
    asked_at: datetime
    news: str | None = None
    """What merchants hear of it."""

    @classmethod
    def of(cls, value: BookObject, asked_at: datetime, news: str | None = None) -> Observed:
        return cls(value.kind, msgspec.to_builtins(value), asked_at, news)

    def translation(self, kinds: Mapping[str, type[BookObject]]) -> Translation:
        change = self._change(kinds)
        return Translation((change,), (Fact(self.news, change.object, self.asked_at),) if self.news else ())

    def _change(self, kinds: Mapping[str, type[BookObject]]) -> Change:
        """Later than all that was told before it was asked for. An event of the second in which it was asked for is a
        tie, which the provider is asked to settle."""
        value = convert(self.object, kinds[self.kind])
        return Change(value, self.asked_at.replace(microsecond=0), self.asked_at)
