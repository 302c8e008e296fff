"""A claim by the rules: which of the due deliveries that it found may be taken, decided in its transaction.

For what is not plain (`plain.py`): orders to keep, limits of an endpoint's own, endpoints whose record says they fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from billhook.queue.leases import Leases
from billhook.rules import breaker, bucket
from billhook.rules.breaker import Breaker
from billhook.store import deliveries, ordering, work
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint, endpoints_of, save_tokens
from billhook.store.work import Row
from services.courier.limits import LONGEST_WAIT, SLOW_SECONDS, EndpointLimits, Traffic


class Admission:
    """The limits during one claim in one lane; `admit` runs in its transaction. Rows that it lets in carry their
    `endpoint`, as it was read there."""

    def __init__(self, limits: EndpointLimits, lane: str, leases: Leases | None = None) -> None:
        """`leases`: what this process has in hand."""
        self._limits = limits
        self._leases = leases
        self._lane = lane
        self.found = 0
        self.deferred: list[tuple[str, datetime]] = []
        self._taken: Counter[str] = Counter()

    def admit(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Row]:
        self.settle(())  # a claim whose rows cannot be prepared together is done once more
        self.found, self.deferred = len(rows), []
        now = self._limits.now()
        rows = self._not_in_hand(tx, rows, now)
        waiting: dict[str, list[Row]] = defaultdict(list)
        ready, not_yet = ordering.in_turn(tx, rows, now)
        for row, at in not_yet:
            self._defer(row, at, now)
        for row in ready:
            waiting[row["endpoint_id"]].append(row)
        endpoints, elsewhere = _read(tx, waiting, self._mine(), now)
        admitted: list[Row] = []
        spent: list[tuple[str, datetime]] = []
        for endpoint_id, queue in waiting.items():
            endpoint = endpoints[endpoint_id]
            with self._limits.lock:
                count = self._places(endpoint, self._limits.traffic(endpoint_id), queue, elsewhere, now)
                if endpoint.rate_limit is not None and count:
                    count, at = self._tokens(endpoint, endpoint.rate_limit, queue, count, now)
                    spent.append((endpoint_id, at))
                self._limits.enter(endpoint_id, endpoint.merchant_id, count)
            self._taken[endpoint_id] += count
            admitted += [{**row, "endpoint": endpoint} for row in queue[:count]]
        save_tokens(tx, spent)
        work.defer(tx, deliveries.deliveries, self.deferred)
        return admitted

    def settle(self, kept: Sequence[str]) -> None:
        """Give back the places of what was admitted and then not taken; `kept` has an endpoint id for each that was."""
        with self._limits.lock:
            for endpoint_id, places in (self._taken - Counter(kept)).items():
                self._limits.enter(endpoint_id, self._limits.traffic(endpoint_id).merchant_id, -places)
        self._taken = Counter()

    def _mine(self) -> Collection[str]:
        return () if self._leases is None else self._leases.tokens()

    def _not_in_hand(self, tx: Tx, rows: Sequence[Row], now: datetime) -> Sequence[Row]:
        """Whose lease has run out by the wall clock although it is under way here keeps it: it is not sent twice."""
        leases = self._leases
        if leases is None:
            return rows
        mine = [(row["id"], now + leases.lease) for row in rows if leases.holds(row["id"])]
        work.defer(tx, deliveries.deliveries, mine)
        return rows if not mine else [row for row in rows if not leases.holds(row["id"])]

    def _places(
        self, endpoint: Endpoint, traffic: Traffic, queue: Sequence[Row], with_others: Mapping[str, int], now: datetime
    ) -> int:
        """How many of the queue there is room for. The rest is left, or put off."""
        if endpoint.disabled_at is not None or endpoint.deleted_at is not None:
            return len(queue)  # nothing will be sent
        if traffic.breaker.is_open(now):
            for row in queue:
                self._defer(row, traffic.next_turn(now, tried=row["attempts"] > 0), now)
            return 0
        if traffic.breaker == Breaker() and endpoint.failing_since is not None:
            self._limits.judge(endpoint.id, breaker.SUSPECT)  # it was down when the process before this one ended
        traffic.cap = endpoint.max_in_flight
        places = self._limits.room_for(traffic, now)
        elsewhere = with_others.get(endpoint.id, 0)
        if endpoint.max_in_flight is not None:
            left = endpoint.max_in_flight - elsewhere
            if left > 0:
                traffic.places = left
            places = min(places, left + places - traffic.most if left > 0 else 0)
        share = self._limits.share(endpoint.merchant_id)
        crowded = share < min(places, len(queue))
        places = max(0, min(places, share, len(queue)))
        if places == len(queue):
            return places
        if crowded:
            self._limits.crowd(endpoint.merchant_id, self._lane)
        elif not elsewhere and traffic.seconds <= SLOW_SECONDS:
            traffic.left.add(self._lane)  # somebody will leave soon, and look
        else:
            for row in queue[places:]:
                self._defer(row, traffic.next_turn(now, tried=row["attempts"] > 0), now)
        return places

    def _tokens(
        self, endpoint: Endpoint, rate: float, queue: Sequence[Row], count: int, now: datetime
    ) -> tuple[int, datetime]:
        granted, spent = bucket.take(endpoint.tokens_spent, rate, count, now)
        traffic = self._limits.traffic(endpoint.id)
        traffic.promised = max(traffic.promised or spent, spent)
        for row in queue[granted:count]:
            traffic.promised = bucket.next_at(traffic.promised, rate, 1)
            self._defer(row, traffic.promised, now)
        traffic.promised = min(traffic.promised, now + LONGEST_WAIT)
        return granted, spent

    def _defer(self, row: Row, at: datetime, now: datetime) -> None:
        self.deferred.append((row["id"], min(at, now + LONGEST_WAIT)))


def _read(
    tx: Tx, endpoint_ids: Collection[str], mine: Collection[str], now: datetime
) -> tuple[dict[str, Endpoint], Mapping[str, int]]:
    """The endpoints, and what other couriers have in hand for those that have a cap. Those with limits of their own
    are locked."""
    found = endpoints_of(tx, endpoint_ids)
    limited = [ep.id for ep in found.values() if ep.rate_limit is not None or ep.max_in_flight is not None]
    if not limited:
        return found, {}
    found |= endpoints_of(tx, limited, lock=True)
    return found, deliveries.with_others(tx, limited, mine, now)
