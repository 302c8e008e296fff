"""What a policy would do: a case played through in a moment, before a merchant turns the policy on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

from billhook.rules.dunning import Cause, Stage, after, ended
from billhook.rules.dunning_calendar import Calendar, Progress, ends_at, grace_until
from billhook.rules.dunning_policy import Policy
from billhook.rules.payment_attempts import declined

PAID: Final = "paid"
"""In place of a decline code: the bank says yes."""

Access = Literal["grace", "suspended", "active"]


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    what: str
    stage: Stage
    access: Access

    @property
    def mark(self) -> str:
        """On a timeline."""
        word = self.what.split()[0]
        return {"opened": "o", "attempt": "x", "grace": "g", "recovered": "+", "final": "!"}.get(word, "r")


def simulate(
    policy: Policy,
    opened_at: datetime,
    zone: ZoneInfo,
    declines: Sequence[str] = (),
    paid_at: datetime | None = None,
) -> list[Moment]:
    """A case from its opening to its end. `declines` are the answers to its attempts, the last of them for all that
    follow; at `paid_at` the money comes by itself."""
    calendar = Calendar(policy, opened_at, zone)
    # Reminders before the due date are those of an invoice of billhook's own.
    begins: Stage = "scheduled" if any(reminder.day < 0 for reminder in policy.reminders) else "grace"
    progress = Progress(
        stage=begins,
        opened_at=opened_at,
        grace_until=grace_until(policy, opened_at, zone),
        ends_at=ends_at(policy, opened_at, zone),
    )
    moments = [Moment(opened_at, "opened", "grace", "grace")] if begins == "grace" else []
    made = 0
    while (step := calendar.next(progress)) is not None:
        if paid_at is not None and step.at > paid_at:
            return [*moments, Moment(paid_at, "recovered by other means", "recovered", "active")]
        cause: Cause | None = None
        match step.kind:
            case "attempt":
                code = declines[min(made, len(declines) - 1)] if declines else "insufficient_funds"
                made += 1
                progress = replace(progress, attempts=step.index + 1)
                if code == PAID:
                    return [*moments, Moment(step.at, f"recovered by attempt {made}", "recovered", "active")]
                cause = _cause(code, calendar, progress)
                what = f"attempt {made}: {code}"
            case "reminder":
                progress = replace(progress, reminders=step.index + 1)
                what = f"reminder ({step.tone})"
            case "attempt_reminder":
                progress = replace(progress, attempt_reminders=step.index + 1)
                what = "reminder of the next attempt"
            case "open":
                cause, what = "due", "opened"
            case "grace_over":
                progress, cause, what = replace(progress, suspended=True), "grace_over", "grace is over"
            case _:
                cause, what = "deadline", f"final action: {policy.final_action}"
        stage = (after(progress.stage, cause) if cause else None) or progress.stage
        progress = replace(progress, stage=stage)
        access: Access = "suspended" if progress.suspended else "active" if stage == "scheduled" else "grace"
        moments.append(Moment(step.at, what, stage, access))
        if ended(stage):
            break
    return moments


def _cause(code: str, calendar: Calendar, progress: Progress) -> Cause:
    if declined(None, code).kind == "hard":
        return "declined_for_good"
    left = any(step.kind == "attempt" for step in calendar.steps(progress))
    return "declined" if left else "attempts_used_up"


def timeline(moments: Sequence[Moment], zone: ZoneInfo) -> str:
    """A character a day: o opened, x an attempt, r a reminder, g the end of the grace, + recovered, ! given up."""
    dates = [moment.at.astimezone(zone).date() for moment in moments]
    days = [(date - dates[0]).days for date in dates]
    line = ["."] * (days[-1] + 1)
    for day, moment in zip(days, moments, strict=True):
        # What ends the case stands above all else of its day, and an attempt above reminders.
        if line[day] in ".rg" or moment.mark in "+!":
            line[day] = moment.mark
    return "".join(line)
