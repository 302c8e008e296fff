"""Attempts to collect money: their states, who may make one, and what a bank's answer means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from billhook.rules.declines import kind_of, wait_of

Status = Literal["created", "submitted", "unknown", "requires_action", "succeeded", "failed", "canceled"]
Trigger = Literal["cycle", "dunning", "method_added", "customer", "operator"]

COUNTS: Final[Mapping[Trigger, bool]] = {
    # The first try of a period, and those of the policy.
    "cycle": True,
    "dunning": True,
    # Made because someone acted: these never use up the attempts that the policy grants.
    "method_added": False,
    "customer": False,
    "operator": False,
}
"""Whether an attempt counts towards its policy, by who made it. Every trigger has to be here."""

AFTER: Final[Mapping[Status, tuple[Status, ...]]] = {
    # Canceled: the last look found nothing to collect, so nothing was sent.
    "created": ("submitted", "canceled", "failed"),
    # Back to created: the provider said that it did nothing (a rate limit), or could not be asked at all.
    "submitted": ("succeeded", "failed", "requires_action", "unknown", "created", "canceled"),
    # Back to created: the provider says that it never got the request. The same key makes a second one harmless.
    "unknown": ("succeeded", "failed", "requires_action", "unknown", "created"),
    "requires_action": ("succeeded", "failed", "requires_action", "unknown"),
    "succeeded": (),
    "failed": (),
    "canceled": (),
}
IN_FLIGHT: Final[tuple[Status, ...]] = tuple(status for status in get_args(Status) if AFTER[status])
"""There is at most one of an invoice: the database holds that."""

COLLECTED: Final = ("stripe",)
"""The providers through which billhook collects money. Of the others' invoices it charges none."""

ATTEMPT: Final = "billhook_attempt"
ATTEMPT_OF_INVOICE: Final = "billhook_invoice"
"""The metadata of a payment that an attempt of ours made for an own invoice: by the one an attempt is found again whose
key is forgotten, by the other what was collected by one that the ledger has lost."""

ASK_AFTER: Final = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
"""When the provider is asked what became of an attempt that did not answer; then daily."""
GIVE_UP_AFTER: Final = timedelta(days=7)
"""Whoever does not answer for a week is not waited for any longer: a person has to look."""
REPLAYED: Final = "replayed_error"
"""The code of an attempt whose provider answers it with the error of before: sending it again is no use."""
KEY_LIFE: Final = timedelta(hours=24)
"""Stripe forgets an idempotency key after this. The same request under it would then be another one."""
MOST_SENDS: Final = 3
"""How often one attempt is sent under its key, where the provider says each time that it did not get it."""

AnswerKind = Literal["succeeded", "soft", "hard", "requires_action", "method_missing", "refused", "nothing", "pending"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider says of one attempt."""

    kind: AnswerKind
    """`refused`: the request cannot be, whatever the bank says; `nothing`: the provider never got it; `pending`: nobody
    knows yet."""
    code: str | None = None
    """The decline code, or the error's."""
    message: str | None = None
    reference: str | None = None
    """The provider's id of the payment."""
    action_url: str | None = None
    """Where the customer can do what is needed."""
    replayed: bool = False
    """The answer to the same request of before: nothing happened a second time."""
    wait: timedelta | None = None
    """For how long the card network wants no other attempt."""


def declined(
    code: str | None,
    decline_code: str | None,
    message: str | None = None,
    *,
    advice: str | None = None,
    network_advice: str | None = None,
    reference: str | None = None,
    action_url: str | None = None,
) -> Answer:
    """What a refused payment means: another step by the customer, another card, or another day."""
    kind = kind_of(code, decline_code, advice, network_advice)
    wait = wait_of(code, network_advice) if kind == "soft" else None
    return Answer(kind, decline_code or code, message, reference, action_url, wait=wait)


def ask_at(asked: int, now: datetime) -> datetime:
    """When to ask the next time, after asking so often."""
    return now + ASK_AFTER[min(asked, len(ASK_AFTER) - 1)]


def may_follow(status: Status, following: Status) -> bool:
    return following in AFTER[status]


def may_send_again(sends: int, first_sent_at: datetime, now: datetime) -> bool:
    """Whether an attempt that never arrived can go out once more under its own key."""
    return sends < MOST_SENDS and now - first_sent_at < KEY_LIFE - timedelta(hours=1)
