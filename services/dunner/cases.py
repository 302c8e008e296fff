"""Cases along their calendars: the handler of the dunning cases.

prepare   read each case's policy, and whether an attempt is under way
perform   find the next step of its calendar (pure); a first look, or a final action, that is outstanding is taken at
          the provider
effects   write the step: an attempt to make, a stage, the end
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from billhook.actions.book_update import merged
from billhook.actions.dunning import close, opened, write_of_failure
from billhook.actions.dunning_attempts import begin_attempt
from billhook.actions.dunning_mails import CaseMail, write_to_customers
from billhook.actions.dunning_news import calendar_of, next_attempt_at, progress_of, tell, tell_standings
from billhook.errors import TryAgain
from billhook.queue.handler import Rings
from billhook.rules.dunning import after, ended
from billhook.rules.dunning_calendar import Step
from billhook.rules.payment_attempts import Answer
from billhook.rules.retry import MAX_ATTEMPTS, Defer, Done, Outcome, after_failure
from billhook.store.database import Tx
from billhook.store.dunning_cases import COLUMNS, Case, NewStep, add_steps, change_case, dunning_cases, moved
from billhook.store.dunning_policies import PolicyVersion, policies_of
from billhook.store.payment_attempts import in_flight
from billhook.store.work import DEAD, Row
from services.dunner.final_action import FinalAction
from services.dunner.first_look import FirstLook

AT_ONCE = 16
"""Cases of which the provider is asked at a time."""

IDLE = timedelta(days=1)
"""How long a case waits while its attempt is under way. The end of the attempt wakes it before."""


@dataclass(frozen=True, slots=True)
class CaseJob:
    id: str
    merchant_id: str
    attempts: int
    case: Case
    version: PolicyVersion
    attempt: str | None
    """How the work of an attempt under way stands."""


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be done with a case now."""

    step: Step | None = None
    at_once: bool = False
    """Try it with the method that came."""
    unanswerable: bool = False
    final: str | None = None
    """What came of the final action."""
    looked: Case | None = None
    """The case after the first look."""


Result = tuple[CaseJob, Outcome, Move]


class Cases:
    """The handler of the cases."""

    table: sa.Table = dunning_cases
    batch = 100
    lease = timedelta(seconds=10)
    max_attempts = MAX_ATTEMPTS

    def __init__(
        self,
        first_look: FirstLook,
        final_action: FinalAction,
        now: Callable[[], datetime],
        public: str | None = None,
    ) -> None:
        self._public = public
        self._first_look = first_look
        self._final_action = final_action
        self._now = now
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cases")

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[CaseJob]:
        names = [column.name for column in COLUMNS]
        cases = [Case(**{name: row[name] for name in names}) for row in rows]
        versions = policies_of(tx, {case.policy_id for case in cases})
        busy = in_flight(tx, [case.id for case in cases])
        return [
            CaseJob(case.id, case.merchant_id, row["attempts"], case, versions[case.policy_id], busy.get(case.id))
            for case, row in zip(cases, rows, strict=True)
        ]

    def perform(self, jobs: Sequence[CaseJob]) -> Sequence[Result]:
        return list(self._pool.map(self._performed, jobs))

    def _performed(self, job: CaseJob) -> Result:
        now = self._now()
        try:
            return self._move(job, now)
        except TryAgain as error:
            return job, after_failure(error, attempts=job.attempts, now=now, jitter=random.random()), Move()

    def _move(self, job: CaseJob, now: datetime) -> Result:
        case = job.case
        if ended(case.stage):
            if case.stage != "exhausted" or case.final_action == "none" or case.final_done_at is not None:
                return job, Done("done"), Move()
            return job, Done("done"), Move(final=self._final_action.take(case, job.version))
        if case.first_look:
            looked = _looked(case, self._first_look.take(case), now)
            return job, _wait(job, looked, job.attempt is not None, now), Move(looked=looked)
        if job.attempt == DEAD:
            return job, Done("done"), Move(unanswerable=True)
        if case.try_at_once and job.attempt is None:
            return job, _wait(job, replace(case, try_at_once=False), True, now), Move(at_once=True)
        calendar, progress = calendar_of(case, job.version), progress_of(case, in_flight=job.attempt is not None)
        step = calendar.next(progress)
        if step is None or step.at > now:
            return job, Defer(step.at if step else now + IDLE, ""), Move()
        if step.kind == "end":
            # The work goes on where a final action is to be taken.
            pending = case.final_action != "none"
            return job, Defer(now, "") if pending else Done("done"), Move(step)
        return (
            job,
            _wait(job, _moved_on(job, step, now), job.attempt is not None or step.kind == "attempt", now),
            Move(step),
        )

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        return merged(self._effect(tx, job, move, now) for job, _, move in results)

    def _effect(self, tx: Tx, job: CaseJob, move: Move, now: datetime) -> Rings:
        case = job.case
        if move.final is not None:
            change_case(tx, case, replace(case, final_done_at=now))
            add_steps(tx, [NewStep(case, case.final_action, detail=move.final or None)], now)
            return {}
        if move.looked is not None:
            return _write_look(tx, job, move.looked, now)
        if move.unanswerable:
            return close(tx, case, "unanswerable", now, detail="The provider never said what became of an attempt.")
        if move.at_once:
            at_once = replace(case, try_at_once=False)
            change_case(tx, case, at_once)
            return begin_attempt(tx, at_once, job.version, "method_added", now)
        if move.step is None:
            return {}
        if move.step.kind == "end":
            return close(tx, case, "deadline", now)
        changed = _moved_on(job, move.step, now)
        change_case(tx, case, changed)
        match move.step.kind:
            case "open":
                return opened(tx, changed, job.version, now)
            case "grace_over":
                add_steps(tx, [NewStep(changed, "grace_over")], now)
                return tell_standings(tx, [changed], now)
            case "attempt":
                return begin_attempt(tx, changed, job.version, "dunning", now)
            case "reminder":
                add_steps(tx, [NewStep(changed, "reminder", detail=move.step.tone)], now)
                mail = CaseMail(changed, job.version, move.step.tone, f"reminder:{changed.reminders}")
                return write_to_customers(tx, [mail], now, public=self._public)
            case kind:
                add_steps(tx, [NewStep(changed, kind)], now)
                next_at = next_attempt_at(changed, job.version)
                mail = CaseMail(changed, job.version, "upcoming", f"upcoming:{move.step.index}", next_at)
                return write_to_customers(tx, [mail], now, public=self._public)


def _looked(case: Case, said: Answer | None, now: datetime) -> Case:
    """The case after the first look. Where another method came before it, what the bank said was of the old one."""
    looked = replace(case, first_look=False)
    if said is None or case.cause != "declined":
        return looked
    looked = replace(looked, decline_code=said.code)
    if said.kind != "hard":
        return looked
    return moved(looked, after(case.stage, "declined_for_good") or case.stage, "declined_for_good", now)


def _write_look(tx: Tx, job: CaseJob, looked: Case, now: datetime) -> Rings:
    change_case(tx, job.case, looked)
    parts: list[Rings] = []
    if looked.cause in ("declined", "declined_for_good"):  # else another method came, and is tried at once
        parts.append(write_of_failure(tx, looked, job.version, now))
    if looked.cause == "declined_for_good":
        add_steps(tx, [NewStep(looked, looked.cause, detail=f"before the case: {looked.decline_code}")], now)
        if next_attempt_at(looked, job.version) is not None:
            parts.append(tell(tx, "dunning.attempt_scheduled", looked, job.version, now))
    return merged(parts)


def _moved_on(job: CaseJob, step: Step, now: datetime) -> Case:
    """The case after a step of its calendar."""
    case, calendar = job.case, calendar_of(job.case, job.version)
    progress = progress_of(case)
    match step.kind:
        case "open":
            return moved(case, after(case.stage, "due") or case.stage, "due", now, owing=True)
        case "grace_over":
            stage = after(case.stage, "grace_over") or case.stage
            return moved(case, stage, "grace_over", now, suspended_at=case.grace_until)
        case "attempt":
            return replace(case, policy_attempts=calendar.passed(progress, now))
        case "reminder":
            return replace(case, reminders=calendar.passed_reminders(progress, now))
        case "attempt_reminder":
            return replace(case, attempt_reminders=step.index + 1)
        case "end":
            return case


def _wait(job: CaseJob, case: Case, busy: bool, now: datetime) -> Defer:
    """Until the step after this one."""
    step = calendar_of(case, job.version).next(progress_of(case, in_flight=busy))
    return Defer(max(step.at, now) if step else now + IDLE, "")
