"""Running: a run goes through its lists a page at a time, then looks again at what it suspects.

perform   ask the provider for the next page, and read what the inbox or the book has of it
effects   write what was found and move the cursor, in the transaction that lets the run fall due again

Between two steps the run is a row like any other: whoever takes it goes on, after a crash as well.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from billhook.actions.book_update import merged
from billhook.actions.inside_repairs import repair_inside
from billhook.actions.reconciliation import EVENTS, SETTLE, take_in, tell_book
from billhook.errors import AccountRefused, NotYet, TryAgain, Unprocessable
from billhook.metrics import Metrics
from billhook.queue.handler import Rings
from billhook.rules.reconcile import FINDING_CLASSES, Observed, news_of
from billhook.rules.retry import MAX_ATTEMPTS, Defer, Done, Outcome, after_failure
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_be_asked
from billhook.store.connected_accounts import meet_account, met_at, next_account, set_refused
from billhook.store.consistency.checks import CHECKS, check_of
from billhook.store.database import Database, Tx, after_commit
from billhook.store.file_walks import set_place
from billhook.store.reconciliation import (
    DONE,
    IMPORT,
    INCOMPLETE,
    MOST_ACCOUNTS,
    Finding,
    Run,
    change_run,
    events_due,
    events_waiting,
    reconciliation_runs,
    suspicions,
    went_as_far_as,
)
from billhook.store.sources import Source, sources_of
from billhook.store.work import Row
from services.reconciler import comparing, findings
from services.reconciler.comparing import Looked
from services.reconciler.findings import Verdict
from services.reconciler.inside import OpenObjects, look_inside, verdict_inside

PATIENCE = 6
"""Failures in a row (some 40 minutes) after which a list is given up and the run goes on with the next."""

MOST_LOOKS = 10
"""Second looks before what still moves is left as a suspicion."""

AT_ONCE = 20
"""Suspicions that one step looks at again, with a question to the provider each."""

MOST_NOTES = 100

MOST_WAITING = 2000
"""Imported objects that wait to be posted: what bookkeepers do in half a second."""

PAUSE = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class RunJob:
    """One claimed run."""

    id: str
    merchant_id: str
    attempts: int
    run: Run
    source: Source | None


@dataclass(frozen=True)
class Step:
    """What one step found, and how the run goes on."""

    changes: dict[str, Any] = field(default_factory=dict)
    looked: Looked | None = None
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    asked_at: datetime | None = None
    refused: bool = False
    """Whether the key may not see the connected account."""


Result = tuple[RunJob, Outcome, Step]


class Reconciling:
    """The handler of the runs."""

    table: sa.Table = reconciliation_runs
    batch = 1  # the runs take turns
    lease = timedelta(seconds=10)
    max_attempts = MAX_ATTEMPTS

    def __init__(
        self,
        database: Database,
        apis: ProviderApis,
        objects: OpenObjects,
        metrics: Metrics,
        clock: Clock,
        *,
        settle: timedelta = SETTLE,
    ) -> None:
        self._apis = apis
        self._objects = objects
        self._database = database
        self._metrics = metrics
        self._compared = metrics.reconciliation_compared
        # From 0 on, or the first would not show as an increase.
        for outcome in (DONE, INCOMPLETE):
            metrics.reconciliation_runs.labels(outcome)
        for finding_class in FINDING_CLASSES:
            metrics.reconciliation_findings.labels(finding_class)
        self._clock = clock
        self._settle = settle

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[RunJob]:
        sources = sources_of(tx, {row["source_id"] for row in rows})
        return [
            RunJob(row["id"], row["merchant_id"], row["attempts"], Run(**row), sources.get(row["source_id"]))
            for row in rows
        ]

    def perform(self, jobs: Sequence[RunJob]) -> Sequence[Result]:
        return [self._step(job) for job in jobs]

    def _step(self, job: RunJob) -> Result:
        name = job.run.list_name
        if name is None:
            return self._look_again(job)
        if name in CHECKS and job.run.account:
            return self._go_on(job, job.run.place + 1)  # what billhook made for a connected account is among the rest
        if name not in CHECKS and (note := self._cannot_be_asked(job.source)) is not None:
            return self._past_provider(job, note)
        try:
            if name in CHECKS:
                return self._walked(job, *look_inside(self._database, self._objects, job.run, job.source, name))
            assert job.source is not None
            return self._walk(job, job.source, name)
        except TryAgain as error:
            if _is_over_patient(job, error):
                return self._next_list(job, str(error))
            now, jitter = self._clock(), random.random()
            return job, after_failure(error, attempts=job.attempts, now=now, jitter=jitter), Step()
        except AccountRefused as reason:
            _, outcome, step = self._go_on(job, len(job.run.lists), f"not compared: {reason}")
            return job, outcome, replace(step, refused=True)
        except Unprocessable as reason:
            return self._next_list(job, str(reason))

    def _cannot_be_asked(self, source: Source | None) -> str | None:
        """Why a source's provider has nothing to say: no key, or one that shows test objects for live ones, or the
        other way round."""
        if source is None or not can_be_asked(source):
            return "not compared with the provider: the source has no API key any more"
        live = self._apis.livemode_of(source)
        if live is None or live == source.livemode:
            return None
        key, mode = ("live", "test") if live else ("test", "live")
        return f"not compared with the provider: the API key is for {key} mode, and the source is for {mode} mode"

    def _walk(self, job: RunJob, source: Source, name: str) -> Result:
        api, asked_at = self._apis.of(source), self._clock()
        if job.run.mode == IMPORT:
            with self._database.read() as tx:
                if events_due(tx, source.id, limit=MOST_WAITING) == MOST_WAITING:
                    return job, Defer(asked_at + PAUSE, "waits until what it imported is in the book"), Step()
        connected_at = self._connected_at(job.run, source).replace(microsecond=0)  # providers' may be whole seconds
        if name == EVENTS:
            return self._walked(job, *comparing.look_at_events(self._database, api, job.run, connected_at))
        found = comparing.look_at_objects(self._database, api, job.run, name, connected_at)
        return self._walked(job, *found, asked_at)

    def _connected_at(self, run: Run, source: Source) -> datetime:
        """What was made before is history, which an import takes. Of an account that is connected it is all that there
        was before a run came to it for the first time: its own life may be longer than its life here."""
        if not run.account:
            return source.created_at
        with self._database.read() as tx:
            return met_at(tx, source.id, run.account) or source.created_at

    def _walked(self, job: RunJob, page: Looked, following: dict[str, Any], asked_at: datetime | None = None) -> Result:
        run = job.run
        changes: dict[str, Any] = {"compared": run.compared + page.compared, **following}
        if following["cursor"] is None:
            changes |= self._place(job, run.place + 1)
        return job, Defer(self._next_at(run, changes), ""), Step(changes, page, notes=page.notes, asked_at=asked_at)

    def _place(self, job: RunJob, place: int) -> dict[str, Any]:
        """Where the run stands with the list at `place`. Behind the last of them it begins anew with those of the next
        account that is connected, as far as the book knows of any."""
        run = job.run
        changes: dict[str, Any] = {"place": place, "cursor": None, "window_end": None}
        if place < len(run.lists) or not self._compares_accounts(job):
            return changes
        with self._database.read() as tx:
            # An account that has left the platform is said once and then every night, and makes no hour incomplete.
            after = run.account or went_as_far_as(tx, run)
            account = next_account(tx, run.source_id, after, refused=not run.routine)
        if account is None:
            return changes
        return {**changes, "place": 0, "account": account, "accounts": run.accounts + 1}

    def _compares_accounts(self, job: RunJob) -> bool:
        if job.run.accounts == MOST_ACCOUNTS or all(name in CHECKS for name in job.run.lists):
            return False
        return self._cannot_be_asked(job.source) is None

    def _next_list(self, job: RunJob, reason: str) -> Result:
        of = f" of {job.run.account}" if job.run.account else ""
        return self._go_on(job, job.run.place + 1, f"not compared{of}: {reason}")

    def _past_provider(self, job: RunJob, note: str) -> Result:
        """Go on with what needs no provider."""
        lists = job.run.lists
        inside = (place for place in range(job.run.place, len(lists)) if lists[place] in CHECKS)
        return self._go_on(job, next(inside, len(lists)), note)

    def _go_on(self, job: RunJob, place: int, *notes: str) -> Result:
        changes = self._place(job, place)
        return job, Defer(self._next_at(job.run, changes), ""), Step(changes, notes=notes)

    def _next_at(self, run: Run, changes: dict[str, Any]) -> datetime:
        """At once; before the second look, once what was on its way has settled."""
        last = changes.get("place", run.place) >= len(run.lists)
        return self._clock() + (self._settle if last else timedelta(0))

    def _look_again(self, job: RunJob) -> Result:
        run, now = job.run, self._clock()
        with self._database.read() as tx:
            found = suspicions(tx, run.id, limit=AT_ONCE)
            waiting = bool(found) and events_waiting(tx, run.source_id, now - self._settle)
        if not found:
            return self._over(job, Step())
        if run.looks >= MOST_LOOKS:
            note = f"{len(found)} or more objects changed too fast to be compared, or events wait to be processed"
            return self._over(job, Step(notes=(note,)))
        again = Defer(now + self._settle, "waits for what is on its way")
        if waiting:
            return job, again, Step({"looks": run.looks + 1})
        try:
            verdicts = tuple(self._verdict(job, one, now) for one in found)
        except TryAgain as error:
            if _is_over_patient(job, error):
                return self._over(job, Step(notes=(f"not looked at again: {error}",)))
            return job, after_failure(error, attempts=job.attempts, now=now, jitter=random.random()), Step()
        moving = any(verdict.persists is None for verdict in verdicts)
        changes = {"looks": run.looks + 1} if moving else {}
        return job, again if moving else Defer(now, ""), Step(changes, verdicts=verdicts)

    def _verdict(self, job: RunJob, finding: Finding, now: datetime) -> Verdict:
        check = check_of(finding.kind)
        if check is not None:
            return verdict_inside(self._database, self._objects, check, job.run, finding, now)
        if job.source is None or self._cannot_be_asked(job.source) is not None:
            return Verdict(finding, None, None, finding.local_version, None, now)
        return findings.verdict(self._database, self._apis.of(job.source), finding, now)

    def _over(self, job: RunJob, step: Step) -> Result:
        run = job.run
        if run.accounts == MOST_ACCOUNTS and not run.scheduled:  # of the scheduled the next goes on
            with self._database.read() as tx:
                left = next_account(tx, run.source_id, run.account)
            if left is not None:
                note = f"not compared: the connected accounts from {left} on: a run takes {MOST_ACCOUNTS}"
                step = replace(step, notes=(*step.notes, note))
        return job, Done(INCOMPLETE if job.run.notes or step.notes else DONE), step

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        rings: dict[str, list[str]] = {"inbox": [], "deliveries": []}
        inside: list[Rings] = []
        for job, outcome, step in results:
            run = job.run
            changes = dict(step.changes)
            if step.looked is not None and run.mode == IMPORT:
                taken = self._import(tx, job, step, now)
                rings["inbox"] += taken
                changes["repaired"] = run.repaired + len(taken)
            elif step.looked is not None:
                missing = step.looked.missing_events
                if missing and run.repairs:
                    assert job.source is not None
                    rings["inbox"] += take_in(tx, job.source, missing, now)
                events = findings.keep_missing_events(tx, run, missing, now)
                findings.keep_suspicions(tx, run, step.looked, now)
                if step.looked.walked_to is not None:
                    set_place(tx, run.merchant_id, step.looked.walked_to)
                changes |= _counted(run, events, len(events) if run.repairs else 0)
                rings["deliveries"] += findings.tell(tx, run, events, now)
                self._count(tx, events)
                after_commit(tx, partial(self._compared.inc, step.looked.compared))
            if step.verdicts:
                settled = findings.settle(tx, run, step.verdicts, now)
                if settled.repairs:
                    assert job.source is not None
                    rings["inbox"] += tell_book(tx, job.source, settled.repairs, now)
                inside += [repair_inside(tx, one, now, by=run.id) for one in settled.inside]
                changes |= _counted(run, settled.confirmed, len(settled.repairs) + len(settled.inside))
                rings["deliveries"] += findings.tell(tx, run, settled.confirmed, now)
                self._count(tx, settled.confirmed)
            if step.notes:
                changes["notes"] = [*run.notes, *step.notes][:MOST_NOTES]
            if changes:
                change_run(tx, run.id, **changes)
            if run.account and (step.refused or step.looked is not None):
                set_refused(tx, run.source_id, run.account, now if step.refused else None)
            if changes.get("account") and job.source is not None:
                meet_account(tx, job.source, changes["account"], now)
            if isinstance(outcome, Done):
                shown = replace(run, **changes) if changes else run
                if run.tells and (shown.confirmed or not run.routine):
                    rings["deliveries"] += findings.tell_of_run(tx, shown, outcome.state, now)
                after_commit(tx, self._metrics.reconciliation_runs.labels(outcome.state).inc)
        return merged([rings, *inside])

    def _import(self, tx: Tx, job: RunJob, step: Step, now: datetime) -> list[str]:
        """Let the book take what it has not; how else the two differ is another run's business."""
        assert job.source is not None
        assert step.looked is not None
        asked_at, tells = step.asked_at or now, job.run.tells
        seen = [
            (job.run.account, Observed.of(one.remote, asked_at, news_of(one.drift, one.remote) if tells else None))
            for one in step.looked.suspicions
            if one.remote is not None and one.drift.finding_class == "missing_local"
        ]
        return tell_book(tx, job.source, seen, now)

    def _count(self, tx: Tx, found: Sequence[Finding]) -> None:
        for finding in found:
            after_commit(tx, self._metrics.reconciliation_findings.labels(finding.finding_class).inc)


def _is_over_patient(job: RunJob, error: TryAgain) -> bool:
    """Whose turn has not come has not failed."""
    return job.attempts >= PATIENCE and not isinstance(error, NotYet)


def _counted(run: Run, found: Sequence[Finding], repaired: int) -> dict[str, int]:
    return {"confirmed": run.confirmed + len(found), "repaired": run.repaired + repaired}
