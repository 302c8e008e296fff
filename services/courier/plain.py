"""The fast path of the dispatcher: plain deliveries are claimed and settled in one statement each.

What is not plain, and what fails here, is left to the machinery of all consumers (`billhook.queue.steps.Steps`),
which does everything. So whatever is decided here is decided there in the same way.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from billhook.queue.leases import Leases
from billhook.queue.steps import Steps
from billhook.rules.retry import Done, Retry
from billhook.store.database import Database, is_store_away
from billhook.store.plain_deliveries import LONG_AGO, Settled, Wanted, settle, take
from billhook.store.queues import lane_name
from billhook.store.work import DUE
from services.courier.delivery import DeliveryJob, Result, Tried
from services.courier.endpoint_health import arrived, begins_to_fail, concerns
from services.courier.limits import EndpointLimits

log = logging.getLogger(__name__)

LOOK_THROUGH_AGAIN: Final = timedelta(seconds=5)
"""How often a claim walks through a backlog that is passed over, which takes a second for some millions."""

LATE: Final = timedelta(seconds=10)
"""Work is due by the clock of whoever makes it, and is seen when their transaction ends: some seconds later at most."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the fast path made of a claim."""

    token: str
    jobs: Sequence[DeliveryJob]
    left: Sequence[str] | None
    """What is to be claimed by the usual machinery; None: whatever is due."""
    more: bool
    """There may be more that is due than was looked at, or more room than there was."""


@dataclass(frozen=True, slots=True)
class LookedThrough:
    """A lane in which nothing is left of what was due by some time, but for those who are passed over."""

    at: datetime
    by: datetime
    endpoints: frozenset[str]
    merchants: frozenset[str]

    def holds(self, endpoints: Collection[str], merchants: Collection[str], now: datetime) -> bool:
        """Whether a claim that passes over these need not look there again."""
        return (
            self.at <= now < self.at + LOOK_THROUGH_AGAIN
            and self.endpoints.issubset(endpoints)
            and self.merchants.issubset(merchants)
        )


class FastPath:
    """Claims and settles what is plain."""

    def __init__(
        self, steps: Steps[DeliveryJob, Tried | None], database: Database, limits: EndpointLimits, leases: Leases
    ) -> None:
        """`leases`: what this process has in hand."""
        self._steps = steps
        self._database = database
        self._limits = limits
        self._leases = leases
        self._looked_through: dict[str, LookedThrough] = {}

    def claim(self, lane: str, ids: Sequence[str] | None, limit: int) -> Claimed:
        """Take what is plain; the places of these are taken in the limits too. One claim at a time: between the look
        at the limits and the taking of places nobody else may take any. Raises if the database is away."""
        look = self._limits.look(lane)
        if look.most < 1:
            return Claimed("", (), ids, more=False)
        now, handler = self._limits.now(), self._steps.handler
        mine = self._leases.tokens() if look.rooms.capped else ()
        after = LONG_AGO if ids is not None else self._after(lane, look.full, look.crowded, now)
        wanted = Wanted(lane, ids, min(limit, look.most), look.full, look.crowded, mine, after)
        most_attempts, lease = handler.max_attempts, handler.lease
        try:
            taken = take(self._database, wanted, look.rooms, max_attempts=most_attempts, now=now, lease=lease)
        except Exception as error:
            if is_store_away(error):
                raise
            log.warning("not claimed in one statement", extra={"reason": str(error)[:500]})
            return Claimed("", (), ids, more=False)
        jobs = [DeliveryJob(message) for message in taken.messages]
        endpoints = {job.endpoint.id: job.endpoint for job in jobs}
        with self._limits.lock:
            for endpoint_id, places in Counter(job.endpoint.id for job in jobs).items():
                endpoint = endpoints[endpoint_id]
                self._limits.traffic(endpoint_id).cap = endpoint.max_in_flight
                self._limits.enter(endpoint_id, endpoint.merchant_id, places)
            for endpoint_id, places in taken.places.items():
                if places > 0:
                    self._limits.traffic(endpoint_id).places = places
        self._steps.note_claimed(taken.due, now, lane_name(lane))
        again = self._limits.wait_for_room({(endpoint, merchant) for _, endpoint, merchant in taken.waiting}, lane)
        roomy = self._limits.with_room({endpoint for _, endpoint in taken.left}, lane)
        left = [row_id for row_id, endpoint_id in taken.left if endpoint_id in roomy]
        behind = len(jobs) + len(taken.waiting) + len(taken.left) == wanted.limit
        passes_over = look.full or look.crowded
        if ids is None and passes_over and not (behind or taken.waiting or taken.left):
            self._note_looked_through(wanted, now)
        if ids is not None and behind:
            passed = (row_id for row_id, *_ in (*taken.waiting, *taken.left))
            seen = {*passed, *(job.id for job in jobs)}
            left += [row_id for row_id in ids if row_id not in seen]
        return Claimed(taken.token, jobs, left, more=again or (behind and ids is None))

    def _after(self, lane: str, endpoints: Collection[str], merchants: Collection[str], now: datetime) -> datetime:
        """Since when what a claim that passes over these looks for has been due."""
        known = self._looked_through.get(lane)
        return known.by - LATE if known is not None and known.holds(endpoints, merchants, now) else LONG_AGO

    def _note_looked_through(self, wanted: Wanted, now: datetime) -> None:
        """All that a claim looked at was taken."""
        known = self._looked_through.get(wanted.lane)
        if wanted.after == LONG_AGO or known is None:
            over = frozenset(wanted.passing_over), frozenset(wanted.passing_over_all_of)
            self._looked_through[wanted.lane] = LookedThrough(now, now, *over)
        else:
            self._looked_through[wanted.lane] = replace(known, by=now)

    def settle(self, tokens: Mapping[str, str], results: Sequence[Result]) -> Sequence[Result]:
        """Write what came of plain deliveries; returns the results that are still to be settled."""
        answering = {job.endpoint.id for job, _, tried in results if tried is not None and arrived(tried.attempt)}
        plain = {result[0].id: one for result in results if (one := _plainly(tokens, result, answering)) is not None}
        if not plain:
            return results
        try:
            held = settle(self._database, [*plain.values()], self._limits.now())
        except Exception as error:  # whatever it is, the usual machinery finds out
            log.warning("not settled in one statement", extra={"reason": str(error)[:500]})
            return results
        self._steps.note_attempts(
            job.attempts for job, outcome, _ in results if job.id in held and isinstance(outcome, Done)
        )
        counts = Counter("retry" if one.due_at else one.state for row_id, one in plain.items() if row_id in held)
        self._steps.tell([result for result in results if result[0].id in held])
        self._steps.note_settled({**counts, "stale": len(plain) - len(held)})
        return [result for result in results if result[0].id not in plain]


def _plainly(tokens: Mapping[str, str], result: Result, answering: Collection[str]) -> Settled | None:
    """A result as the fast path writes it; None where more follows from it. `answering`: endpoints at which another
    attempt arrived meanwhile, so that a failure may not be the last that is known of them."""
    job, outcome, tried = result
    if tried is None or job.message.subject is not None:
        return None
    fails = begins_to_fail(job.endpoint, tried.attempt)
    if job.endpoint.id in answering if fails else concerns(job.endpoint, tried.attempt):
        return None
    match outcome:
        case Done(state):
            return Settled(tokens[job.id], state, None, None, tried.attempt)
        case Retry(at, reason):
            return Settled(tokens[job.id], DUE, at, reason, tried.attempt, job.endpoint.id if fails else None)
    return None
