"""What happens to a failed payment, as people say it: the names of its rules are for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from billhook.rules.dunning import Cause
from billhook.rules.dunning_calendar import StepKind
from billhook.rules.dunning_policy import FinalAction
from billhook.rules.payment_attempts import Trigger

CAUSES: Final[Mapping[Cause, str]] = {
    "due": "the due date passed",
    "grace_over": "the time of grace is over",
    "declined": "declined",
    "declined_for_good": "declined for good",
    "action_required": "the customer has to confirm it",
    "method_missing": "there is no payment method",
    "attempts_used_up": "no attempts are left",
    "method_added": "another payment method was added",
    "paid": "paid",
    "credited": "credited",
    "voided": "the invoice was declared void",
    "written_off": "the invoice was written off",
    "invoice_deleted": "the invoice was deleted",
    "subscription_ended": "the subscription ended",
    "customer_deleted": "the customer was deleted",
    "stopped": "ended by a person",
    "unanswerable": "nobody can say what became of an attempt",
    "deadline": "its time is over",
}

TRIGGERS: Final[Mapping[Trigger, str]] = {
    "cycle": "the period's first",
    "dunning": "by the policy",
    "method_added": "for another payment method",
    "customer": "by the customer",
    "operator": "by an operator",
}

COMING: Final[Mapping[StepKind, str]] = {
    "open": "it opens",
    "grace_over": "the time of grace is over",
    "reminder": "a reminder",
    "attempt_reminder": "a reminder of the next attempt",
    "attempt": "an attempt to collect",
    "end": "the end",
}

ENDS: Final[Mapping[FinalAction, str]] = {
    "none": "nothing more is done",
    "cancel_subscription": "the subscription is canceled",
    "pause_collection": "collection is paused",
    "mark_uncollectible": "the invoice is marked as uncollectible",
}


def said_of(cause: str) -> str:
    """What a step of a case was: a cause, or an attempt (`attempt_` and what made it)."""
    return _SAID.get(cause, cause.replace("_", " "))


_SAID: Final[Mapping[str, str]] = {
    **{str(cause): words for cause, words in CAUSES.items()},
    **{f"attempt_{trigger}": f"tried to collect, {words}" for trigger, words in TRIGGERS.items()},
}
