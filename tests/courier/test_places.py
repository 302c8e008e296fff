"""A cap is kept by all couriers together, whatever each has in hand, and no place of it stands empty for long."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import pytest
from consumers.world import World
from courier.dispatching import Office, dispatching, until
from hypothesis import given
from hypothesis import strategies as st

from billhook.outlets.webhooks.exchange import Request
from billhook.outlets.webhooks.response import Response
from billhook.rules.breaker import Breaker
from billhook.store.endpoints import set_disabled
from services.courier.limits import BEYOND, IN_FLIGHT, MOST_AHEAD, EndpointLimits, Traffic
from services.courier.places import Places

URL = "https://merchant.test/hook"
QUICK = Response("2xx", 200, duration_ms=20)


def waiting(office: Office) -> int:
    """How much is in hand and has no place."""
    return sum(map(len, [*office.dispatcher._places._waiting.values()]))


def test_a_place_is_taken_again_in_the_moment_of_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of 20 ms had its place for 54: until its attempt was written, and the next claim had come back."""
    monkeypatch.setattr("services.courier.dispatcher.GATHER_SECONDS", 600.0)  # nothing more is written
    world.endpoint(URL, max_in_flight=1)
    for _ in range(3 * MOST_AHEAD):
        world.say()
    with dispatching(world) as here:
        until(lambda: here.client.sent)
        assert waiting(here) == 0  # nothing is known of it
        here.answer(QUICK)
        until(lambda: waiting(here) == MOST_AHEAD, "claiming ahead")
        assert here.dispatcher._lanes["fresh"].busy == 1  # others find the room of what waits
        for _ in range(MOST_AHEAD):
            here.answer(QUICK)
            assert len(here.client.sent) == 1
        with dispatching(world) as there:  # to which all this is under way

            def has_put_off() -> bool:
                there.look()  # the other one may just be looking at it
                return there.dispatcher._lanes["fresh"].look_at is not None

            until(has_put_off)
            assert there.client.sent == []


def test_a_place_that_another_courier_has_is_not_taken_for_what_waits_in_hand(world: World) -> None:
    endpoint = world.endpoint(URL, max_in_flight=2)
    world.say()
    with dispatching(world) as here:
        until(lambda: here.client.sent)
        for _ in range(5):
            world.say()
        with dispatching(world) as there:
            there.dispatcher._limits.answered(endpoint, "2xx", 200, None, 0.02)
            until(lambda: waiting(there) == 4, "claiming ahead")
            assert len(there.client.sent) == 1
            here.answer(QUICK)
            until(lambda: here.states().count("delivered") == 1)
            while set(there.states()) != {"delivered"}:
                until(lambda: there.client.sent or set(there.states()) == {"delivered"})
                there.answer(QUICK)


class Counting:
    """Notes how many requests are under way from all couriers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0
        self.sent: list[str] = []

    def watch(self, office: Office) -> None:
        send = office.client.send

        def counted(request: Request, done: Callable[[Response], None]) -> None:
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
                self.sent.append(request.headers["webhook-id"])
            send(request, done)

        office.client.send = counted  # type: ignore[method-assign]

    def answer_one(self, office: Office, response: Response) -> None:
        _, done = office.client.sent.pop(random.randrange(len(office.client.sent)))
        with self._lock:
            self.now -= 1
        done(response)


def test_two_couriers_with_work_ahead_keep_a_cap_together(world: World) -> None:
    cap, count = 3, 60
    world.endpoint(URL, max_in_flight=cap)
    requests, said = Counting(), 0
    here, there = (Office(world, lease=timedelta(hours=1)) for _ in range(2))  # while the clock runs ahead
    offices = [here, there]
    for office in offices:
        requests.watch(office)
        office.dispatcher.start()

    def is_going_on() -> bool:
        world.clock.move(seconds=0.1)  # what was put off for the other courier's sake falls due
        for office in offices:
            office.look()  # as the relay has them do
        return bool(here.client.sent or there.client.sent or said < count)

    while len(requests.sent) < count or requests.now:
        until(is_going_on)
        for office in offices:
            if office.client.sent and random.random() < 0.6:
                requests.answer_one(office, QUICK)
            elif said < count:  # so few at a time that now and then both of them are short of work
                said += 2
                world.say()
                world.say()
                office.look()
    until(lambda: set(here.states()) == {"delivered"})
    for office in offices:
        assert office.dispatcher.stop(30)
        assert office.parts.problem is None
    assert requests.most == cap
    assert len(requests.sent) == len({*requests.sent}) == count


def test_what_waits_in_hand_goes_back_where_its_endpoint_fails(world: World) -> None:
    world.endpoint(URL, max_in_flight=1)
    for _ in range(8):
        world.say()
    with dispatching(world) as office:
        for _ in range(3):
            until(lambda: office.client.sent)
            office.answer(QUICK)
        until(lambda: waiting(office) > 3, "claiming ahead")
        failed = Response("timeout", None, "nothing came", duration_ms=20)
        office.answer(failed)
        assert waiting(office) > 1  # one failure says nothing
        office.answer(failed)
        assert waiting(office) == 0
        until(lambda: len(office.dispatcher._leases) <= 1, "writing that")
        # Not an attempt of theirs.
        back = [row for row in world.rows("deliveries", "attempts", "token", "state") if row[1:] == (None, "due")]
        assert [attempts for attempts, *_ in back].count(0) >= 2
        assert office.parts.problem is None


@contextmanager
def claiming_ahead(world: World) -> Iterator[Office]:
    """A courier that has sent one of eight, has the next under way to the one place there is, and six in hand."""
    for _ in range(8):
        world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        office.answer(QUICK)
        until(lambda: waiting(office) == 6, "claiming ahead")
        yield office


def test_what_waited_for_long_is_not_sent_to_an_endpoint_that_was_switched_off_meanwhile(world: World) -> None:
    endpoint = world.endpoint(URL, max_in_flight=1)
    with claiming_ahead(world) as office:
        with world.database.begin() as tx:
            set_disabled(tx, endpoint, world.clock(), "by hand")
        office.answer(Response("timeout", None, "nothing came", duration_ms=15_000))
        assert office.client.sent == []

        def is_held() -> bool:
            office.look()
            return office.states().count("held") >= 6

        until(is_held)
        assert office.client.sent == []


def test_what_is_given_back_is_claimed_again_in_the_moment_in_which_that_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for still under way, it waited for a whole lease."""
    world.endpoint(URL, max_in_flight=1)

    def given_back() -> list[tuple[object, ...]]:
        """When those that were never tried are due, and who has them."""
        rows = world.rows("deliveries", "due_at", "token", "attempts", "state")
        return [(at, token) for at, token, attempts, state in rows if state == "due" and (attempts == 0 or token)]

    with claiming_ahead(world) as office:
        leases = office.dispatcher._leases
        release = leases.release

        def late(tokens: Mapping[str, str]) -> None:
            office.look()
            until(lambda: any(at != world.clock() for at, _ in given_back()), "a claim before it is released")
            release(tokens)

        monkeypatch.setattr(leases, "release", late)
        office.answer(Response("timeout", None, "nothing came", duration_ms=15_000))
        until(lambda: office.client.sent, "sending one of them")
        assert [at for at, token in given_back() if token is None] == [world.clock()] * 5


def test_a_courier_that_stops_keeps_nothing_that_it_has_not_sent(world: World) -> None:
    world.endpoint(URL, max_in_flight=1)
    with claiming_ahead(world) as office:
        threading.Timer(0.1, office.answer).start()
        assert office.dispatcher.stop(60)
    held = [token for token, state in world.rows("deliveries", "token", "state") if state == "due"]
    assert held == [None] * 6


def test_no_more_is_in_hand_than_is_soon_sent() -> None:
    def ahead(**values: object) -> int:
        return Traffic(**{"cap": 4, "seconds": 0.02, **values}).ahead  # type: ignore[arg-type]

    assert ahead() == MOST_AHEAD
    assert ahead(cap=2) == 10
    assert ahead(cap=None) == 0
    assert ahead(seconds=0.0) == 0
    assert ahead(seconds=0.5) == 0
    assert ahead(breaker=Breaker(4, 1)) == MOST_AHEAD
    assert ahead(breaker=Breaker(4, 2)) == 0


def test_nothing_waits_in_hand_while_others_want_the_room(world: World) -> None:
    """It would hold the room without being sent, and each claim would come upon what waits for a place."""
    limits = EndpointLimits(world.clock)
    limits.traffic("ep").cap = 4
    for _ in range(8):
        limits.answered("ep", "2xx", 200, None, 0.02)
    limits.enter("ep", "mrc", 4)
    assert limits.look("fresh").rooms.known == {"ep": MOST_AHEAD}
    limits.enter("ep_else", "mrc_else", IN_FLIGHT - BEYOND)
    look = limits.look("fresh")
    assert "ep" in look.full
    assert not limits.wait_for_room([("ep", "mrc")], "fresh")
    assert limits.leave("ep") == set()


STEPS = st.tuples(st.integers(0, 2), st.sampled_from(["claim", "answer", "settle", "fail", "die"]))


@given(st.integers(1, 5), st.lists(STEPS, max_size=80))
def test_couriers_never_send_more_than_a_cap_together(cap: int, steps: list[tuple[int, str]]) -> None:
    """The rule by itself: what others have in hand is a place taken, sent or not, written or not."""
    ahead, claims = 4, 0
    allowed, held = [cap] * 3, [0] * 3  # what each may send, and what SQL says it has in hand
    sent = [0] * 3
    places = [Places[int](lambda _, number=number: allowed[number]) for number in range(3)]  # type: ignore[misc]
    waiting = [0] * 3
    for who, what in steps:
        if what == "claim":
            left = cap - sum(held) + held[who]
            if left > 0:
                allowed[who] = left
                for _ in range(max(0, left + ahead - sent[who] - waiting[who])):
                    claims, held[who] = claims + 1, held[who] + 1
                    if places[who].take("ep", claims):
                        sent[who] += 1
                    else:
                        waiting[who] += 1
        elif what == "answer" and sent[who]:
            next_ones = places[who].leave("ep")
            sent[who] += len(next_ones) - 1
            waiting[who] -= len(next_ones)
        elif what == "settle":
            held[who] = sent[who] + waiting[who]
        elif what == "fail":
            assert len(places[who].give_back("ep")) == waiting[who]
            waiting[who] = 0
        elif what == "die":  # its connections end with it; its rows are held until their leases end
            places[who] = Places[int](lambda _, number=who: allowed[number])  # type: ignore[misc]
            sent[who] = waiting[who] = 0
        assert sum(sent) <= cap
        assert all(sent[one] for one in range(3) if waiting[one])
