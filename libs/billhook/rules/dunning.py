"""The life of a dunning case: what may follow what, as a table.

A case is one invoice whose payment failed, or that is past its due date. `scheduled` comes before the case: the invoice
is not due yet, and nobody is told of anything but a friendly reminder. In `grace` the customer keeps what they have, in
`retrying` they do not any more; attempts are made in both. In `awaiting_customer` nothing is tried blindly: only the
customer can help, with another payment method or a step that their bank wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from billhook.rules.book.invoice import Invoice

Stage = Literal["scheduled", "grace", "retrying", "awaiting_customer", "recovered", "exhausted", "canceled"]
Cause = Literal[
    "due",  # the invoice's due date passed
    "grace_over",
    "declined",  # by a bank that may say yes another day
    "declined_for_good",
    "action_required",
    "method_missing",
    "attempts_used_up",
    "method_added",
    "paid",
    "credited",
    "voided",
    "written_off",
    "invoice_deleted",
    "subscription_ended",
    "customer_deleted",
    "stopped",  # by a person
    "unanswerable",  # what became of an attempt could not be found out
    "deadline",
]

_CLOSING: Final[Mapping[Cause, Stage]] = {
    "paid": "recovered",
    "credited": "canceled",
    "voided": "canceled",
    "written_off": "canceled",
    "invoice_deleted": "canceled",
    "subscription_ended": "canceled",
    "customer_deleted": "canceled",
    "stopped": "canceled",
}
"""What ends a case whatever it is at."""
_WAITING: Final[Mapping[Cause, Stage]] = {
    "declined_for_good": "awaiting_customer",
    "action_required": "awaiting_customer",
    "method_missing": "awaiting_customer",
    "attempts_used_up": "awaiting_customer",
}
_RUNNING: Final[Mapping[Cause, Stage]] = {**_CLOSING, "deadline": "exhausted", "unanswerable": "canceled"}

AFTER: Final[Mapping[Stage, Mapping[Cause, Stage]]] = {
    # A scheduled case that ends never began: no message is sent of it.
    "scheduled": {"due": "grace", **dict.fromkeys(_CLOSING, "canceled")},
    "grace": {"grace_over": "retrying", "declined": "grace", "method_added": "grace", **_WAITING, **_RUNNING},
    "retrying": {"declined": "retrying", "method_added": "retrying", **_WAITING, **_RUNNING},
    "awaiting_customer": {
        "grace_over": "awaiting_customer",
        "declined": "awaiting_customer",
        "method_added": "retrying",
        **dict.fromkeys(_WAITING, "awaiting_customer"),
        **_RUNNING,
    },
    "recovered": {},
    "exhausted": {},
    "canceled": {},
}

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
OPEN: Final[tuple[Stage, ...]] = ("grace", "retrying", "awaiting_customer")
"""A case that is under way. Of `scheduled` ones merchants hear nothing."""


def after(stage: Stage, cause: Cause) -> Stage | None:
    """The stage that follows; None where the cause changes nothing (it came late, or twice)."""
    return AFTER[stage].get(cause)


def ended(stage: Stage) -> bool:
    return not AFTER[stage]


def invoice_cause(invoice: Invoice) -> Cause | None:
    """What the state of its invoice means for a case; None where there is still something to collect."""
    if invoice.deleted:
        return "invoice_deleted"
    match invoice.status:
        case "paid":
            # Where credit notes settled it before anything was paid, nothing was due in the end.
            return "paid" if invoice.amount_due else "credited"
        case "void":
            return "voided"
        case "uncollectible":
            return "written_off"
        case _:  # a draft, an open one, or one with a status newer than this list
            return None


def picture() -> str:
    """The table as a Mermaid diagram, for `docs/dunning.md`."""
    arrows: dict[tuple[Stage, Stage], list[Cause]] = {}
    for stage, follows in AFTER.items():
        for cause, following in follows.items():
            if following != stage:
                arrows.setdefault((stage, following), []).append(cause)
    lines = [f"    {start} --> {end}: {', '.join(causes)}" for (start, end), causes in arrows.items()]
    ends = [f"    {stage} --> [*]" for stage in STAGES if ended(stage)]
    return "\n".join(["stateDiagram-v2", "    [*] --> scheduled", "    [*] --> grace", *lines, *ends])
