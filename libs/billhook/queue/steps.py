"""The steps of claimed work, written once for every service.

    claim (a transaction) ─▶ perform (the world) ─▶ settle (a transaction) ─▶ ring for what follows

No transaction is open while `perform` runs. Effects, the mark that the work is done, and the work that follows from it
are one transaction. A batch that fails is done again member by member, so that a poisoned one stands alone; work that
was tried before (it may have killed its process) is never put into a batch with others.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol

from billhook.metrics import Metrics
from billhook.queue.handler import E, Handler, J, Job, Rings
from billhook.queue.leases import Leases
from billhook.queue.spans import UnitSpans
from billhook.rules.retry import NEVER_SETTLED, NOT_WRITTEN, Dead, Defer, Done, Outcome, Retry, after_failure, describe
from billhook.store import dead_letters, work
from billhook.store.database import Database, Tx, after_commit, is_outage, is_store_away
from billhook.store.dead_letters import DeadLetter

if TYPE_CHECKING:
    from billhook.tracing import Tracing

log = logging.getLogger(__name__)

SETTLE_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, *[5.0] * 24)
"""Waits between the tries to write what came of work that cannot be done again: two minutes in all."""

Prepare = Callable[[Tx, Sequence[work.Row]], Sequence[J]]


@dataclass(frozen=True)
class _Unprepared:
    """A job of which nothing is known but its row."""

    id: str
    merchant_id: str
    attempts: int


class Ringer(Protocol):
    """What rings for new work: `billhook.queue.bell.Bell`."""

    def ring_all(self, rings: Rings) -> None: ...


class Steps(Generic[J, E]):
    """Claim, perform and settle for one queue."""

    def __init__(
        self,
        handler: Handler[J, E],
        database: Database,
        bell: Ringer,
        metrics: Metrics,
        now: Callable[[], datetime],
        *,
        admit: work.Admit | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`admit` decides in the claim which of the due rows `run` takes. `tracing` hears of each unit of work."""
        self.handler = handler
        self.queue = handler.table.name
        self._database = database
        self._bell = bell
        self._metrics = metrics
        self._now = now
        self._admit = admit
        self._leases = self.leases()
        self._spans = UnitSpans(tracing, self.queue)
        # Children are looked up once: a label lookup takes a lock and a dictionary each time.
        self._claimed = functools.cache(metrics.jobs_claimed.labels)
        self._waited = functools.cache(metrics.job_wait.labels)
        self._finished = functools.cache(partial(metrics.jobs_finished.labels, self.queue))
        self._seconds = functools.cache(partial(metrics.job_seconds.labels, self.queue))
        self._in_progress = metrics.jobs_in_progress.labels(self.queue)
        self._attempts = metrics.job_attempts.labels(self.queue)
        metrics.store_errors.labels(self.queue)
        # From 0 on, or the first would not show as an increase.
        self._claimed(self.queue)
        self._waited(self.queue)
        for outcome in ("retry", "dead", "stale"):
            self._finished(outcome)

    def run(self, ids: Sequence[str] | None) -> int:
        """Claim a batch and do it; returns how many jobs that were."""
        started = time.monotonic()
        token, jobs = self.claim(ids, self.handler.batch, admit=self._admit)
        if jobs:
            fresh = [job for job in jobs if job.attempts == 1]
            ids = [job.id for job in jobs]
            with self._counted(len(jobs)), self._spans.of(ids), self._leases.kept(token, ids):
                if fresh:
                    self._do(token, fresh)
                for job in jobs:
                    if job.attempts > 1:
                        self._do(token, [job])
            self.took([time.monotonic() - started] * len(jobs))
        return len(jobs)

    def until_due(self, least: float, most: float) -> float:
        """How many seconds it is until the next of this work falls due, within these bounds."""
        with self._database.read() as tx:
            due_at = work.next_due(tx, self.handler.table)
        if due_at is None:
            return most
        return min(most, max(least, (due_at - self._now()).total_seconds()))

    @contextmanager
    def _counted(self, jobs: int) -> Iterator[None]:
        self.in_hand(jobs)
        try:
            yield
        finally:
            self.in_hand(-jobs)

    def in_hand(self, more: int) -> None:
        """So many more jobs are claimed and not settled (fewer, if negative)."""
        self._in_progress.inc(more)

    def took(self, seconds: Iterable[float]) -> None:
        """How long each job was in hand."""
        observed = self._seconds()
        for each in seconds:
            observed.observe(each)

    def leases(self) -> Leases:
        return Leases(self._database, self.handler.table, self.handler.lease, self._now)

    def _do(self, token: str, jobs: Sequence[J]) -> None:
        try:
            self.settle(dict.fromkeys((job.id for job in jobs), token), self.handler.perform(jobs))
        except Exception as error:
            if is_store_away(error):
                raise
            if len(jobs) == 1:
                self.fail(token, jobs[0], error)
            else:
                for job in jobs:
                    self._do(token, [job])

    def claim(
        self,
        ids: Sequence[str] | None,
        limit: int,
        only: work.Only | None = None,
        admit: work.Admit | None = None,
        lane: str | None = None,
    ) -> tuple[str, Sequence[J]]:
        """Take due rows (of those that `only` is true of, what `admit` lets in); returns the fencing token and the
        jobs. Rows that wore out their attempts are buried here. `lane` is what the part of the queue is called that
        `only` selects."""
        token, rows, jobs = self._claim_twice(ids, limit, only, admit)
        self.note_claimed([row["due_at"] for row in rows], self._now(), lane)
        return token, jobs

    def _claim_twice(
        self, ids: Sequence[str] | None, limit: int, only: work.Only | None, admit: work.Admit | None
    ) -> tuple[str, Sequence[work.Row], Sequence[J]]:
        try:
            return self._claim(ids, limit, only, admit, self.handler.prepare)
        except Exception as error:
            if is_store_away(error):
                raise
            # The first claim was rolled back. This one counts, and costs a savepoint for each row.
            return self._claim(ids, limit, only, admit, self._prepare_each)

    def _claim(
        self,
        ids: Sequence[str] | None,
        limit: int,
        only: work.Only | None,
        admit: work.Admit | None,
        prepare: Prepare[J],
    ) -> tuple[str, Sequence[work.Row], Sequence[J]]:
        now = self._now()
        table, handler = self.handler.table, self.handler
        with self._database.begin(durable=False) as tx:
            claim = work.claim(
                tx,
                table,
                ids=ids,
                limit=limit,
                only=only,
                admit=admit,
                max_attempts=handler.max_attempts,
                now=now,
                lease=handler.lease,
            )
            jobs = prepare(tx, self._spans.begun(claim.rows)) if claim.rows else []
            if claim.worn_out:
                self._bury_worn_out(tx, claim.worn_out, now)
        self._count("dead", len(claim.worn_out))
        return claim.token, claim.rows, jobs

    def note_claimed(self, due: Sequence[datetime], now: datetime, lane: str | None = None) -> None:
        """Count claims; `due` says since when each was due."""
        name = lane or self.queue
        self._claimed(name).inc(len(due))
        wait = self._waited(name)
        for at in due:
            wait.observe(max(0.0, (now - at).total_seconds()))

    def note_attempts(self, attempts: Iterable[int]) -> None:
        """How many claims the work took that has ended."""
        for each in attempts:
            self._attempts.observe(each)

    def _prepare_each(self, tx: Tx, rows: Sequence[work.Row]) -> Sequence[J]:
        """Prepare row by row, so that one that cannot be prepared fails alone."""
        jobs: list[J] = []
        for row in rows:
            try:
                with tx.begin_nested():
                    jobs.extend(self.handler.prepare(tx, [row]))
            except Exception as error:
                if is_store_away(error):
                    raise
                self._mark_failed(tx, _Unprepared(row["id"], row["merchant_id"], row["attempts"]), error)
        return jobs

    def _bury_worn_out(self, tx: Tx, rows: Sequence[work.Row], now: datetime) -> None:
        reason = f"claimed {self.handler.max_attempts} {NEVER_SETTLED}: it seems to kill its worker"
        work.give_up(tx, self.handler.table, [(row["id"], reason) for row in rows], now)
        letters = [DeadLetter(row["merchant_id"], row["id"], reason, row["attempts"] - 1) for row in rows]
        dead_letters.bury(tx, self.queue, letters, now)

    def settle(self, tokens: Mapping[str, str], results: Sequence[tuple[J, Outcome, E]]) -> None:
        """Write what follows from results, for those still ours under `tokens` (job id → token); then ring."""
        now = self._now()
        table = self.handler.table
        with self._spans.settling(tokens), self._database.begin() as tx:
            held = work.lock_claimed(tx, table, tokens)
            ours = [result for result in results if result[0].id in held]
            rings = self.handler.effects(tx, ours, now)
            self._mark(tx, [(job, outcome) for job, outcome, _ in ours], now)
        self._count("stale", len(results) - len(ours))
        self.tell(ours)
        if self._spans.wanted:
            for job, outcome, brought in ours:
                self._spans.end(job.id, outcome, self._about(job, brought))
        self._bell.ring_all(rings)

    def tell(self, results: Sequence[tuple[J, Outcome, E]]) -> None:
        """A line in the log for each that was settled."""
        if not log.isEnabledFor(logging.INFO):
            return
        for job, outcome, brought in results:
            line = {"queue": self.queue, "id": job.id, "merchant_id": job.merchant_id, "attempt": job.attempts}
            line |= self._about(job, brought)
            match outcome:
                case Done(state):
                    log.info(state, extra=line)
                case Retry(at, reason):
                    log.info("retry", extra={**line, "due_at": at.isoformat(), "reason": reason})
                case Dead(reason):
                    log.info("dead", extra={**line, "reason": reason})
                case Defer(at, reason):
                    log.debug("deferred", extra={**line, "due_at": at.isoformat(), "reason": reason})

    def _about(self, job: J, brought: E) -> dict[str, Any]:
        about: Callable[[J, E], dict[str, Any]] | None = getattr(self.handler, "about", None)
        return {} if about is None else about(job, brought)

    def settle_surely(
        self,
        tokens: Mapping[str, str],
        results: Sequence[tuple[J, Outcome, E]],
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """Settle results whose work must not be done again only because writing them failed. Where the database is
        away, or takes nothing, this is tried once more, after a while; otherwise each result is settled by itself, and
        one that still cannot be written becomes a dead letter with the reason. Raises if the database stays away."""
        waits = iter(SETTLE_AGAIN_SECONDS)
        while True:
            try:
                self.settle(tokens, results)
                return
            except Exception as error:
                self._metrics.store_errors.labels(self.queue).inc()
                refused = None if is_outage(error) else error
                if refused is not None:
                    about = {"queue": self.queue, "count": len(results), "reason": str(error)[:500]}
                    log.error("not settled", extra=about)
                seconds = next(waits, None)
                if refused is None and seconds is None:
                    raise
            if refused is None and seconds is not None:
                wait(seconds)
            elif refused is not None and len(results) > 1:
                for result in results:
                    self.settle_surely({result[0].id: tokens[result[0].id]}, [result], wait)
                return
            elif refused is not None:
                self._bury_unsettled(tokens, results[0][0], refused, wait)
                return

    def _bury_unsettled(
        self, tokens: Mapping[str, str], job: J, error: Exception, wait: Callable[[float], object]
    ) -> None:
        reason = f"{NOT_WRITTEN}: {describe(error)}"
        for seconds in SETTLE_AGAIN_SECONDS:
            try:
                with self._database.begin() as tx:
                    if work.lock_claimed(tx, self.handler.table, tokens):
                        self._mark(tx, [(job, Dead(reason))], self._now())
                return
            except Exception as again:
                if not is_outage(again):
                    raise
                wait(seconds)

    def fail(self, token: str, job: J, error: Exception) -> None:
        """Settle a job whose performing or effects raised."""
        with self._database.begin() as tx:
            if work.lock_claimed(tx, self.handler.table, {job.id: token}):
                self._mark_failed(tx, job, error)

    def _mark_failed(self, tx: Tx, job: Job, error: Exception) -> None:
        now = self._now()
        outcome = after_failure(error, attempts=job.attempts, now=now, jitter=random.random())
        self._mark(tx, [(job, outcome)], now)
        self._spans.end(job.id, outcome, {})
        if isinstance(outcome, Defer):
            return
        about = {"queue": self.queue, "id": job.id, "attempt": job.attempts, "outcome": type(outcome).__name__}
        after_commit(tx, partial(log.warning, "work failed", extra=about, exc_info=error))

    def _mark(self, tx: Tx, outcomes: Iterable[tuple[Job, Outcome]], now: datetime) -> None:
        done: dict[str, list[str]] = {}
        retries: list[tuple[str, datetime, str]] = []
        deferred: list[tuple[str, datetime, str]] = []
        letters: list[DeadLetter] = []
        ended: list[int] = []
        for job, outcome in outcomes:
            if isinstance(outcome, (Done, Dead)):
                ended.append(job.attempts)
            match outcome:
                case Done(state):
                    done.setdefault(state, []).append(job.id)
                case Retry(at, reason):
                    retries.append((job.id, at, reason))
                case Defer(at, reason):
                    deferred.append((job.id, at, reason))
                case Dead(reason):
                    letters.append(DeadLetter(job.merchant_id, job.id, reason, job.attempts))
        table = self.handler.table
        for state, ids in done.items():
            work.finish(tx, table, ids, state, now)
        work.defer_claimed(tx, table, retries)
        work.defer_claimed(tx, table, deferred, counted=False)
        if letters:
            work.give_up(tx, table, [(letter.work_id, letter.reason) for letter in letters], now)
            dead_letters.bury(tx, self.queue, letters, now)
        counts = {state: len(ids) for state, ids in done.items()}
        counts |= {"retry": len(retries), "deferred": len(deferred), "dead": len(letters)}
        after_commit(tx, partial(self.note_attempts, ended))
        after_commit(tx, partial(self.note_settled, counts))

    def note_settled(self, counts: Mapping[str, int]) -> None:
        """Count what was settled, by how it ended."""
        for outcome, count in counts.items():
            self._count(outcome, count)

    def _count(self, outcome: str, count: int) -> None:
        if count:
            self._finished(outcome).inc(count)
