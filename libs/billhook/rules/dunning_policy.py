"""Dunning policies: when a failed payment is tried again, whom one tells, and how it ends. Data that a merchant sets.

Days are counted from the opening of the case, never from the attempt before: an attempt that came late moves no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from itertools import pairwise
from typing import Annotated, Final, Literal
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta

MOST_ATTEMPTS: Final = 20
MOST_REMINDERS: Final = 20
LONGEST_DAYS: Final = 365

FinalAction = Literal["none", "cancel_subscription", "pause_collection", "mark_uncollectible"]
Owner = Literal["provider", "billhook"]
Tone = Literal["friendly", "due", "overdue", "last"]

Day = Annotated[int, Meta(ge=-LONGEST_DAYS, le=LONGEST_DAYS)]


MailKind = Literal["failed", "upcoming", "friendly", "due", "overdue", "last"]
FILLED_IN: Final = ("number", "amount", "date", "link", "customer", "merchant")
"""What stands in braces in the words of a mail."""
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


class MailText(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's own words for one kind of mail, in place of billhook's."""

    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    text: Annotated[str, Meta(min_length=1, max_length=5000)]


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Words with what stands in braces filled in. What is filled in is only text: braces in it stay braces."""
    return _BRACES.sub(lambda found: values.get(found[1], found[0]), text)


class Reminder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mail to the customer on one day of the case."""

    day: Day
    """Below zero: before the due date of an invoice of billhook's own. Mirrored cases open with a failed payment, and
    have no days before."""
    tone: Tone = "overdue"


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=80)] = "custom"
    owner: Owner = "billhook"
    """Who tries again. With `provider` billhook opens cases, tells people and knows the standing, and never charges."""
    grace_days: Annotated[int, Meta(ge=0, le=LONGEST_DAYS)] = 7
    """How long the customer keeps what they pay for."""
    attempts: Annotated[tuple[Day, ...], Meta(max_length=MOST_ATTEMPTS)] = ()
    """The days on which the payment is tried again."""
    time_of_day: Annotated[str, Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None
    """In the customer's zone; without one it is the time at which the case was opened."""
    zone: Annotated[str, Meta(max_length=64)] | None = None
    """Of customers whose own zone is not known (their metadata's `time_zone`); the merchant's, if nothing is said."""
    last_attempt_after_hard_decline: bool = True
    """A card that was declined for good is not tried again but for once, on the last day of the attempts."""
    reminders: Annotated[tuple[Reminder, ...], Meta(max_length=MOST_REMINDERS)] = ()
    remind_days_before_attempt: Annotated[int, Meta(ge=1, le=30)] | None = None
    remind_after_failure: bool = True
    """Write to the customer when the case opens and after each attempt that failed."""
    mails: dict[MailKind, MailText] = {}
    """The merchant's own words."""
    end_day: Annotated[int, Meta(ge=0, le=2 * LONGEST_DAYS)] = 30
    """The day on which the case is given up, if nothing came."""
    final_action: FinalAction = "none"

    @property
    def at(self) -> time | None:
        return time.fromisoformat(self.time_of_day) if self.time_of_day else None

    @property
    def charges(self) -> bool:
        """Whether billhook itself moves money under this policy."""
        return self.owner == "billhook" and bool(self.attempts)


PRESETS: Final[Mapping[str, Policy]] = {
    # Stripe publishes "8 tries within 2 weeks", and that a model picks the hours: here they are spread evenly.
    "stripe-recommended": Policy(
        name="stripe-recommended",
        grace_days=14,
        attempts=(1, 3, 5, 7, 9, 11, 13, 14),
        end_day=14,
        final_action="cancel_subscription",
    ),
    # Polar waits 2, 5, 7 and 7 days, each from the one before.
    "polar": Policy(
        name="polar", grace_days=7, attempts=(2, 7, 14, 21), end_day=21, final_action="cancel_subscription"
    ),
    # Kill Bill's default: three tries, eight days apart.
    "kill-bill": Policy(name="kill-bill", grace_days=30, attempts=(8, 16, 24), end_day=30),
    "reminders-only": Policy(
        name="reminders-only",
        grace_days=30,
        reminders=(
            Reminder(day=-3, tone="friendly"),
            Reminder(day=0, tone="due"),
            Reminder(day=7),
            Reminder(day=14),
            Reminder(day=30, tone="last"),
        ),
        remind_after_failure=False,
        end_day=44,
    ),
    "provider-retries": Policy(name="provider-retries", owner="provider", grace_days=14, end_day=60),
}


def refusals(policy: Policy) -> list[str]:
    """Every reason why this policy cannot be."""
    found = []
    days = policy.attempts
    if any(day < 0 for day in days):
        found.append("`attempts` must be days from 0 on: nothing is tried before the case is opened")
    if any(later <= earlier for earlier, later in pairwise(days)):
        found.append("`attempts` must go up, with no day twice")
    if days and policy.end_day < days[-1]:
        found.append(f"`end_day` ({policy.end_day}) must not be before the last attempt (day {days[-1]})")
    if any(reminder.day > policy.end_day for reminder in policy.reminders):
        found.append(f"`reminders` must not come after the end (day {policy.end_day})")
    if len({reminder.day for reminder in policy.reminders}) < len(policy.reminders):
        found.append("`reminders` must be on different days: nobody is told two things at once")
    if policy.grace_days > policy.end_day:
        found.append(f"`grace_days` ({policy.grace_days}) must not be more than `end_day` ({policy.end_day})")
    if policy.zone is not None and policy.zone not in available_timezones():
        found.append(f"`zone` must be a name of the IANA time zone database, such as Europe/Berlin: {policy.zone!r}")
    for kind, words in policy.mails.items():
        unknown = sorted({name for name in _BRACES.findall(words.subject + words.text) if name not in FILLED_IN})
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in FILLED_IN)
            found.append(f"`mails.{kind}` has {{{unknown[0]}}}, which nothing fills in; there are {known}")
        if "\0" in words.subject + words.text:
            found.append(f"`mails.{kind}` has a NUL character, which no database keeps")
    if policy.owner == "provider" and days:
        found.append("`attempts` must be empty where the provider owns the retries: two who try charge twice")
    if policy.owner == "provider" and policy.final_action != "none":
        found.append("`final_action` must be `none` where the provider owns the retries: it has one of its own")
    return found


ScopeKind = Literal["merchant", "price", "customer"]
NARROWEST_FIRST: Final[tuple[ScopeKind, ...]] = ("customer", "price", "merchant")

_REFERENCE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def scope_refusal(kind: str, scope: str) -> str | None:
    if kind not in NARROWEST_FIRST:
        return f"A policy is for a merchant, a price or a customer, not for {kind!r}."
    if kind == "merchant":
        return None if not scope else "A policy for the merchant takes no `scope`."
    return None if _REFERENCE.fullmatch(scope) else f"`scope` must be the provider's id of the {kind}."
