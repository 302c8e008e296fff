"""The limits before the endpoints: what may go to each of them now, and when to ask again.

A claim finds due deliveries, and these limits decide within its transaction which are taken:

    ordering        the subject's earlier delivery is not over        ─▶ deferred until that one is due again
    breaker         the endpoint is down                              ─▶ deferred to a turn of its own
    share           enough is under way for its merchant              ─▶ left in the table, and passed over
    window, cap     enough is under way to it                         ─▶ left in the table, or deferred if it is slow
    rate            its bucket is empty                               ─▶ deferred until there is a token

Nothing waits inside a worker. What is deferred falls due later, so that the next claim does not find it in front of
work that could be done. What is known to have no room is passed over by claims from the beginning, and put off behind
their backs (`Dispatcher._put_off`): the backlog of endpoints that hang is in no claim's way.
Limits that a merchant has set hold over all couriers: their endpoints are locked meanwhile.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from billhook.rules import breaker
from billhook.rules.breaker import Breaker
from billhook.rules.delivery import answers
from billhook.store import deliveries
from billhook.store.plain_deliveries import Rooms

SLOW_SECONDS = 1.0
"""An endpoint whose answers take longer than this makes room so seldom that its backlog is put off instead of left."""

SHORTEST_WAIT = timedelta(seconds=0.1)
LONGEST_WAIT = timedelta(minutes=5)
"""How far work is put off at most: whatever the reason was, it may be gone by then."""

IN_FLIGHT = 384
"""Requests under way in one process, of whichever merchants. It sends some 2,000 a second: at 100 ms each that is 200,
and a claim brings the next 128 while those are sent."""

BEYOND = 128
"""Places beyond these, for merchants that have few under way. So one merchant may use the whole room while nobody else
wants any, and others find theirs at once, however many endpoints of it hang."""

ASSURED = 32
"""What a merchant may have while others fill the room; and never more than a quarter of what is free then, so that the
next one finds something too, however many merchants have endpoints that hang."""

STARTED_A_SECOND = 320
"""By how many what may be under way for a merchant grows with time, from `ASSURED` on and beside one for each answer:
where all its endpoints hang, requests begin a few at a time, and so they time out."""

MOST_NOTED = 1000
"""Endpoints that are busy or not well, of which a claim can be told. Where there are more, the rules are asked."""

MOST_ROOMY = 64
"""Endpoints that answer, the last ones used, whose windows a claim is told of although nothing is under way to them."""

AHEAD_SECONDS = 0.1
MOST_AHEAD = 16
"""Of what an endpoint with a cap answers in such a time so much is in hand beyond its places (`places.py`)."""

WORTH_A_CLAIM = 16
"""Places that have become free for a merchant."""

MOST_KNOWN = 10_000
"""Endpoints that are remembered; of those that have nothing under way, any may be forgotten."""


@dataclass(slots=True)
class Traffic:
    """What this process knows of one endpoint."""

    busy: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    seconds: float = 0.0
    """How long an attempt takes, smoothed."""
    promised: datetime | None = None
    """The last time to which something was put off for want of tokens."""
    turns_until: datetime | None = None
    """Up to when its turns are given to what was put off because it is slow or down."""
    cap: int | None = None
    """What its merchant allows to be under way at once,"""
    places: int | None = None
    """and what other couriers left of that when it was last claimed for."""
    merchant_id: str = ""
    left: set[str] = field(default_factory=set)
    """Lanes in whose table something due was left because the endpoint had no room."""

    @property
    def most(self) -> int:
        """How many may be under way at once."""
        return self.breaker.window if self.cap is None else min(self.breaker.window, self.cap)

    @property
    def fails(self) -> bool:
        return self.breaker.failures > 1

    @property
    def ahead(self) -> int:
        """How many more may be in hand: what is soon sent, and none where nothing is known or it fails."""
        if self.cap is None or self.fails or not self.seconds:
            return 0
        return min(MOST_AHEAD, int(self.most * AHEAD_SECONDS / self.seconds))

    def room(self, now: datetime) -> int:
        if self.breaker.is_open(now):
            return 0
        if self.breaker.opened:
            return int(self.busy < (breaker.MOST_PROBES if self.cap is None else 1))
        return max(0, self.most + self.ahead - self.busy)

    @property
    def is_quick(self) -> bool:
        """Whether there will be room soon where there is none."""
        return self.busy > 0 and self.seconds <= SLOW_SECONDS

    def next_turn(self, now: datetime, *, tried: bool) -> datetime:
        """When the next of what has to wait may be sent. While the endpoint is down one is a probe, and the others
        follow so far apart that each is put off once, not again and again: they fall due with its first success. What
        was `tried` does not, and is put off for a little at a time."""
        wait = max(SHORTEST_WAIT, timedelta(seconds=self.seconds))
        first, each = now + wait, wait / max(1, self.most)
        if self.breaker.opened:
            each = timedelta(seconds=breaker.OPEN_SECONDS)
            first = self.breaker.open_until if self.breaker.is_open(now) and self.breaker.open_until else now + each
        if tried:
            return first + (first - now) * random.random()
        at, furthest = max(first, self.turns_until or first), now + LONGEST_WAIT
        self.turns_until = min(at + each, furthest)
        return at if at < furthest else furthest - LONGEST_WAIT / 2 * random.random()

    def is_worth_a_claim(self, room: int) -> bool:
        """For half of what may be under way, since a claim costs as much as sending 50 messages."""
        return room * 2 >= room + self.busy


NEW = Breaker()
"""Of an endpoint about which nothing is known."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a claim is told."""

    rooms: Rooms
    """How many may go to each endpoint and for each merchant without asking further,"""
    most: int
    """and how many in all."""
    full: list[str]
    """Endpoints that have no room,"""
    crowded: list[str]
    """and merchants whose share is used up: what is due for them stays where it is, and the claim does not come upon it
    before what is due for others."""


@dataclass(slots=True)
class Ramp:
    """How much more than `ASSURED` a merchant may have under way."""

    answered: int = 0
    """One for each answer; a failure halves it."""
    since: float = 0.0
    """When the first of what is under way began (`time.monotonic()`)."""

    def most(self, now: float) -> int:
        grown = int(self.answered + (now - self.since) * STARTED_A_SECOND)
        return min(IN_FLIGHT, ASSURED + grown // WORTH_A_CLAIM * WORTH_A_CLAIM)


class EndpointLimits:
    """What one process knows of all endpoints. Claims run in several threads."""

    def __init__(self, now: Callable[[], datetime], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._monotonic = monotonic
        self.lock = threading.Lock()
        self._known: dict[str, Traffic] = {}
        self._noted: dict[str, Traffic] = {}
        """Of these, the ones that are busy or not at ease: what a claim has to know of."""
        self._roomy: dict[str, Traffic] = {}
        """And some that take more than one of which nothing is known: what a claim is told of to take more at once."""
        self._busy: Counter[str] = Counter()
        """What is under way for each merchant."""
        self._ramps: dict[str, Ramp] = {}
        self._all_busy = 0
        self._crowded: dict[str, set[str]] = {}
        """Merchants whose share was used up, with the lanes in which something may be left for them."""
        self.recovered: set[str] = set()
        """Endpoints that answered after they had been down or slow: what was put off for them may fall due."""

    def enter(self, endpoint_id: str, merchant_id: str, places: int) -> None:
        """So many more are under way (fewer, if negative). Call it with the lock."""
        traffic = self.traffic(endpoint_id)
        traffic.merchant_id = merchant_id
        traffic.busy += places
        if places > 0 and traffic.breaker.opened and not traffic.breaker.is_open(now := self.now()):
            traffic.breaker = breaker.probing(traffic.breaker, now)
        self._note(endpoint_id, traffic)
        self._all_busy += places
        if merchant_id not in self._busy:
            self._ramp(merchant_id).since = self._monotonic()
        self._busy[merchant_id] += places
        if not self._busy[merchant_id]:
            del self._busy[merchant_id]

    def share(self, merchant_id: str) -> int:
        """How many more may go out for a merchant: some always, and more while the others' share is free and its
        endpoints answer, or as time goes by."""
        room = IN_FLIGHT - self._all_busy
        if room < WORTH_A_CLAIM:
            return max(0, min(room + BEYOND, self._assured() - self._busy[merchant_id]))
        return max(0, min(room, self._most(merchant_id) - self._busy[merchant_id]))

    def _most(self, merchant_id: str) -> int:
        """How much a merchant may have under way while nobody else wants the room."""
        ramp, now = self._ramps.get(merchant_id), self._monotonic()
        if ramp is None:
            return ASSURED
        return ramp.most(now if merchant_id in self._busy else ramp.since)

    def _ramp(self, merchant_id: str) -> Ramp:
        if len(self._ramps) >= MOST_KNOWN:
            self._ramps = {name: ramp for name, ramp in self._ramps.items() if name in self._busy}
        return self._ramps.setdefault(merchant_id, Ramp())

    def _assured(self) -> int:
        return min(ASSURED, max(1, (IN_FLIGHT + BEYOND - self._all_busy) // 4))

    def traffic(self, endpoint_id: str) -> Traffic:
        found = self._known.get(endpoint_id)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known = {name: traffic for name, traffic in self._known.items() if traffic.busy}
                self._noted, self._roomy = dict(self._known), {}
            found = self._known[endpoint_id] = Traffic()
        return found

    def judge(self, endpoint_id: str, verdict: Breaker) -> None:
        """Set its breaker. Call it with the lock."""
        traffic = self.traffic(endpoint_id)
        traffic.breaker = verdict
        self._note(endpoint_id, traffic)

    def _note(self, endpoint_id: str, traffic: Traffic) -> None:
        if traffic.busy or not breaker.is_at_ease(traffic.breaker):
            self._noted[endpoint_id] = traffic
            return
        self._noted.pop(endpoint_id, None)
        self._roomy.pop(endpoint_id, None)
        self._roomy[endpoint_id] = traffic
        if len(self._roomy) > MOST_ROOMY:
            del self._roomy[next(iter(self._roomy))]

    def room_for(self, traffic: Traffic, now: datetime) -> int:
        """Its room, but that nothing more waits in hand while others may want the room. Call it with the lock."""
        room = traffic.room(now)
        return room if IN_FLIGHT - self._all_busy >= BEYOND else max(0, room - traffic.ahead)

    def places(self, endpoint_id: str) -> int:
        """How many may be under way from here to an endpoint that has a cap."""
        with self.lock:
            traffic = self.traffic(endpoint_id)
            return traffic.most if traffic.places is None else min(traffic.most, traffic.places)

    def fails(self, endpoint_id: str) -> bool:
        """Whether nothing is to wait in hand for it."""
        with self.lock:
            return self.traffic(endpoint_id).fails

    def look(self, lane: str) -> Look:
        """What a claim in this lane has to know of all that is under way: read once, in one moment, since where a
        hundred endpoints hang each look takes as long as a claim does otherwise."""
        now = self.now()
        with self.lock:
            if len(self._noted) > MOST_NOTED:
                return Look(Rooms({}, 0, {}, 0), 0, [], [])
            room = IN_FLIGHT - self._all_busy
            is_tight = room < WORTH_A_CLAIM
            known, full, capped, judged = {}, [], {}, []
            for name, traffic in {**self._roomy, **self._noted}.items():
                places = self.room_for(traffic, now)
                if not places:
                    full.append(name)
                    traffic.left.add(lane)
                    continue
                if traffic.cap is not None:
                    capped[name] = places - traffic.most
                # Of one about which nothing is known here its record may say that it was down: that is for the rules.
                if traffic.breaker != NEW:
                    judged.append(name)
                known[name] = places
            shares = {merchant_id: self.share(merchant_id) for merchant_id in self._busy}
            crowded = self._crowd_out(shares, lane)
            if is_tight:
                others, most = self._assured(), room + BEYOND
            else:
                others, most = min(room, ASSURED), room
                if len(shares) > 1:
                    # Where several want to send, none fills a claim: whoever comes next waits for the whole of it.
                    shares = {merchant_id: min(share, ASSURED) for merchant_id, share in shares.items()}
            return Look(Rooms(known, breaker.FIRST_WINDOW, shares, others, capped, judged), most, full, crowded)

    def full(self, lane: str) -> tuple[list[str], list[str]]:
        """Endpoints that have no room, and merchants whose share is used up: what is due for them stays where it is,
        and no claim in this lane comes upon it before what is due for others."""
        now = self.now()
        with self.lock:
            crowded = self._crowd_out({merchant_id: self.share(merchant_id) for merchant_id in self._busy}, lane)
            endpoints = [name for name, traffic in self._noted.items() if not self.room_for(traffic, now)]
            for name in endpoints:
                self._noted[name].left.add(lane)
            return endpoints, crowded

    def _crowd_out(self, shares: Mapping[str, int], lane: str) -> list[str]:
        """Those whose share is used up."""
        merchants = [merchant_id for merchant_id, share in shares.items() if not share]
        for merchant_id in merchants:
            self.crowd(merchant_id, lane)
        return merchants

    def with_room(self, endpoint_ids: Collection[str], lane: str) -> set[str]:
        """Which of these have room. A claim in this lane came upon something due for each."""
        now = self.now()
        with self.lock:
            roomy = {name for name in endpoint_ids if self.room_for(self.traffic(name), now)}
            for name in set(endpoint_ids) - roomy:
                self.traffic(name).left.add(lane)
            return roomy

    def wait_for_room(self, waiting: Collection[tuple[str, str]], lane: str) -> bool:
        """A claim in this lane came upon plain deliveries of these (endpoint, merchant), and there was no room for
        them. They stay where they are until there is. Returns whether there is already."""
        now, again = self.now(), False
        with self.lock:
            for endpoint_id, merchant_id in waiting:
                traffic = self.traffic(endpoint_id)
                if not self.share(merchant_id) or self._ramps_up(merchant_id):
                    self.crowd(merchant_id, lane)
                elif (room := self.room_for(traffic, now)) and traffic.is_worth_a_claim(room):
                    again = True
                else:
                    traffic.left.add(lane)
        return again

    def stuck(self) -> list[str]:
        """Endpoints that have no room and will not soon: what is due for them is to be put off."""
        now = self.now()
        with self.lock:
            full = (name for name, traffic in self._noted.items() if not self.room_for(traffic, now))
            return [name for name in full if not self._noted[name].is_quick]

    def turns(self, waiting: Sequence[deliveries.Waiting]) -> list[tuple[str, datetime]]:
        """When each of these may go out, by its id. To an endpoint that was switched off nothing goes: claims are to
        come upon it again, and end what is due for it."""
        now, found = self.now(), []
        with self.lock:
            for one in waiting:
                if one.off:
                    self.judge(one.endpoint_id, Breaker())
                    self.traffic(one.endpoint_id).seconds = 0.0
                else:
                    traffic = self.traffic(one.endpoint_id)
                    found.append((one.id, traffic.next_turn(now, tried=one.attempts > 0)))
        return found

    def crowd(self, merchant_id: str, lane: str) -> None:
        """Something may be left for a merchant because its share is used up. Call it with the lock."""
        self._crowded.setdefault(merchant_id, set()).add(lane)

    def ramping(self, lane: str) -> tuple[set[str], bool]:
        """After a claim in this lane: the lanes in which there is something to look for, since there has come to be
        room for merchants meanwhile, and whether there will be in a moment in this one."""
        with self.lock:
            roomier = self._uncrowded()
            return roomier, any(lane in self._crowded[name] and self._ramps_up(name) for name in self._crowded)

    def _ramps_up(self, merchant_id: str) -> bool:
        """Whether so little is left to a merchant that what comes with time is worth waiting for."""
        return self._most(merchant_id) < IN_FLIGHT and self.share(merchant_id) < WORTH_A_CLAIM

    def open_breakers(self) -> int:
        now = self.now()
        with self.lock:
            return sum(traffic.breaker.is_open(now) for traffic in self._noted.values())

    def answered(
        self, endpoint_id: str, outcome: str, status_code: int | None, pause_seconds: float | None, seconds: float
    ) -> None:
        """Learn from an attempt."""
        now = self.now()
        with self.lock:
            traffic = self.traffic(endpoint_id)
            ramp = self._ramps.get(traffic.merchant_id)
            traffic.seconds += (seconds - traffic.seconds) / 4
            if answers(outcome, status_code):
                if traffic.breaker.failures:
                    # How long nobody answered does not say how long an answer takes.
                    traffic.seconds = min(traffic.seconds, seconds)
                if traffic.breaker.opened or (traffic.turns_until is not None and traffic.seconds <= SLOW_SECONDS):
                    self.recovered.add(endpoint_id)
                    traffic.turns_until = None
                self.judge(endpoint_id, breaker.succeeded(traffic.breaker, max(0, traffic.busy - 1)))
                if ramp is not None:
                    ramp.answered = min(ramp.answered + 1, IN_FLIGHT)
            else:
                if ramp is not None:
                    ramp.answered //= 2
                self.judge(endpoint_id, breaker.failed(traffic.breaker, now, pause_seconds))

    def leave(self, endpoint_id: str) -> set[str]:
        """One less is under way. Returns the lanes in which something was left for which there is room again."""
        with self.lock:
            traffic = self.traffic(endpoint_id)
            self.enter(endpoint_id, traffic.merchant_id, -1)
            found = self._uncrowded()
            if traffic.left and traffic.is_worth_a_claim(self.room_for(traffic, self.now())):
                found |= traffic.left
                traffic.left = set()
            return found

    def _uncrowded(self) -> set[str]:
        """The lanes in which something may be left for merchants whose share has room again, for as many as are worth a
        claim."""
        lanes: set[str] = set()
        for merchant_id in [*self._crowded]:
            if self.share(merchant_id) >= min(WORTH_A_CLAIM, max(1, self._busy[merchant_id])):
                lanes |= self._crowded.pop(merchant_id)
        return lanes
