"""The calendar of a case: what is to happen when, from its policy and the moment it was opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from billhook.rules.dunning import Stage
from billhook.rules.dunning_policy import Policy, Tone

APART = timedelta(hours=1)
"""Two attempts are never closer. A zone may skip a day altogether (Samoa did on 2011-12-30), and two days of a policy
are then one moment."""


def day_at(opened_at: datetime, day: int, zone: ZoneInfo, at: time | None) -> datetime:
    """The moment of a day of the case: the calendar's day in the customer's zone, at that time of day there (that of
    the opening, if none is wanted). A time that a change of clocks leaves out is as much later as the clocks went."""
    local = opened_at.astimezone(zone)
    date = local.date() + timedelta(days=day)
    return datetime.combine(date, at or local.time(), zone).astimezone(UTC)


def attempt_times(policy: Policy, opened_at: datetime, zone: ZoneInfo) -> list[datetime]:
    """When each attempt is due: later than the opening, and later than the one before."""
    times: list[datetime] = []
    earliest = opened_at
    for day in policy.attempts:
        times.append(max(day_at(opened_at, day, zone, policy.at), earliest))
        earliest = times[-1] + APART
    return times


def reminder_times(policy: Policy, opened_at: datetime, zone: ZoneInfo) -> list[tuple[datetime, Tone]]:
    ordered = sorted(policy.reminders, key=lambda reminder: reminder.day)
    return [(day_at(opened_at, reminder.day, zone, policy.at), reminder.tone) for reminder in ordered]


def grace_until(policy: Policy, opened_at: datetime, zone: ZoneInfo) -> datetime:
    return max(opened_at, day_at(opened_at, policy.grace_days, zone, None))


def ends_at(policy: Policy, opened_at: datetime, zone: ZoneInfo) -> datetime:
    """Not before the last attempt, nor the end of the grace."""
    times = attempt_times(policy, opened_at, zone)
    return max([day_at(opened_at, policy.end_day, zone, policy.at), grace_until(policy, opened_at, zone), *times])


StepKind = Literal["open", "grace_over", "reminder", "attempt_reminder", "attempt", "end"]
_ORDER: tuple[StepKind, ...] = ("open", "attempt", "reminder", "attempt_reminder", "grace_over", "end")
"""What comes first of things at one moment: an attempt may make all others needless."""


@dataclass(frozen=True, slots=True)
class Step:
    at: datetime
    kind: StepKind
    index: int = 0
    tone: Tone = "overdue"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a case is along its calendar."""

    stage: Stage
    opened_at: datetime
    grace_until: datetime
    ends_at: datetime
    suspended: bool = False
    """The grace is over, and this was written."""
    attempts: int = 0
    """Of the policy, up to here: made, or passed by."""
    reminders: int = 0
    attempt_reminders: int = 0
    in_flight: bool = False
    """An attempt is under way: nothing is tried beside it, and the case does not end before it is known."""


@dataclass(frozen=True)
class Calendar:
    """A case's policy, laid out in time."""

    policy: Policy
    opened_at: datetime
    zone: ZoneInfo
    attempts: Sequence[datetime] = field(init=False)
    reminders: Sequence[tuple[datetime, Tone]] = field(init=False)

    def __post_init__(self) -> None:
        times = attempt_times(self.policy, self.opened_at, self.zone) if self.policy.charges else []
        object.__setattr__(self, "attempts", times)
        object.__setattr__(self, "reminders", reminder_times(self.policy, self.opened_at, self.zone))

    def steps(self, progress: Progress) -> list[Step]:
        """All that is still to come, in its order, as far as one can say today."""
        steps = [*self._reminders(progress)]
        if progress.stage == "scheduled":
            return _ordered([*steps, Step(self.opened_at, "open")])
        steps += self._attempts(progress)
        if not progress.suspended:
            steps.append(Step(progress.grace_until, "grace_over"))
        if not progress.in_flight:
            steps.append(Step(progress.ends_at, "end"))
        return _ordered(steps)

    def next(self, progress: Progress) -> Step | None:
        steps = self.steps(progress)
        return steps[0] if steps else None

    def passed(self, progress: Progress, now: datetime) -> int:
        """How many attempts count as made if one is made now. Those that were due during an outage are not made up for,
        or the customer would be charged several times in a row."""
        return max(progress.attempts + 1, sum(at <= now for at in self.attempts))

    def passed_reminders(self, progress: Progress, now: datetime) -> int:
        """As for attempts: nobody gets three reminders at once."""
        return max(progress.reminders, sum(at <= now for at, _ in self.reminders))

    def _attempts(self, progress: Progress) -> list[Step]:
        if progress.in_flight:
            return []
        left = [Step(at, "attempt", i) for i, at in enumerate(self.attempts) if i >= progress.attempts]
        if progress.stage == "awaiting_customer":
            # After a hard decline only the last attempt is made.
            left = left[-1:] if self.policy.last_attempt_after_hard_decline else []
        before = self.policy.remind_days_before_attempt
        if before is None:
            return left
        reminders = [
            Step(step.at - timedelta(days=before), "attempt_reminder", step.index)
            for step in left
            if step.index >= progress.attempt_reminders and step.at - timedelta(days=before) > self.opened_at
        ]
        return left + reminders

    def _reminders(self, progress: Progress) -> list[Step]:
        return [Step(at, "reminder", i, tone) for i, (at, tone) in enumerate(self.reminders) if i >= progress.reminders]


def _ordered(steps: list[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: (step.at, _ORDER.index(step.kind), step.index))
