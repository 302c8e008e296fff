"""What may go to an endpoint now, and what is put off: without a request, straight from the table."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from consumers.world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billhook.rules.breaker import FIRST_WINDOW, MOST_PROBES, OPEN_SECONDS, TRIP
from billhook.store.deliveries import Waiting, deliveries
from billhook.store.endpoints import set_disabled, update_endpoint
from services.courier.limits import ASSURED, BEYOND, IN_FLIGHT, WORTH_A_CLAIM, EndpointLimits

URL = "https://merchant.test/hook"


def due(world: World) -> list[datetime]:
    """When each delivery that nobody holds is due."""
    rows = world.rows("deliveries", "due_at", "token", "state")
    return [at for at, token, state in rows if token is None and state == "due"]


def test_an_endpoint_nobody_knows_gets_a_first_window_and_the_rest_stays_in_the_table(world: World) -> None:
    world.endpoint(URL)
    other = world.endpoint(URL, "order.*")
    for _ in range(FIRST_WINDOW + 4):
        world.say("cart.left")
    world.say("order.shipped")
    courier = world.courier()
    _, taken = courier.take()
    assert Counter(job.endpoint.id == other for job in taken) == {False: FIRST_WINDOW, True: 1}
    assert due(world) == [world.clock()] * 5
    assert world.rows("deliveries", "attempts").count((0,)) == 5


def test_an_endpoint_that_is_full_is_passed_over_until_there_is_room(world: World) -> None:
    endpoint = world.endpoint(URL)
    for _ in range(FIRST_WINDOW + 4):
        world.say()
    courier = world.courier()
    courier.take()
    assert courier.limits.full("fresh") == ([endpoint], [])
    assert courier.limits.stuck() == []  # some will be over in a moment
    courier.limits.answered(endpoint, "2xx", 200, None, 0.01)
    # A claim for each single place would cost more than it brings: half of the window is worth one.
    assert [courier.limits.leave(endpoint) for _ in range(2)] == [set(), {"fresh"}]
    assert courier.limits.full("fresh") == ([], [])
    assert len(courier.take()[1]) == 3  # the window has grown by one


def test_what_is_due_for_a_slow_endpoint_is_deferred(world: World) -> None:
    endpoint = world.endpoint(URL)
    courier = world.courier()
    for _ in range(20):
        courier.limits.answered(endpoint, "2xx", 200, None, 8.0)
    window = courier.limits.traffic(endpoint).breaker.window
    for _ in range(window + 3):
        world.say()
    assert len(courier.take()[1]) == window
    assert [7 <= (at - world.clock()).total_seconds() <= 17 for at in due(world)] == [True] * 3
    assert courier.limits.full("fresh") == ([endpoint], [])  # no claim comes upon it
    assert courier.limits.stuck() == [endpoint]


def test_an_endpoint_that_is_down_is_left_alone_and_uses_up_no_attempts(world: World) -> None:
    endpoint = world.endpoint(URL)
    courier = world.courier()
    for _ in range(TRIP):
        courier.limits.answered(endpoint, "connect", None, None, 0.01)
    for _ in range(30):
        world.say()
    assert courier.take()[1] == []
    assert world.rows("deliveries", "attempts") == [(0,)] * 30
    # Each has a turn of its own: it is put off once, and not again and again while the endpoint is down.
    wait = sorted((at - world.clock()).total_seconds() for at in due(world))
    assert wait == [OPEN_SECONDS * turn for turn in range(1, 31)]

    taken = []
    for _ in range(MOST_PROBES + 1):  # all of which hang
        world.clock.move(seconds=2 * OPEN_SECONDS)
        taken.append([len(courier.take()[1]) for _ in range(2)])
    assert taken == [*[[1, 0]] * MOST_PROBES, [0, 0]]
    courier.limits.answered(endpoint, "2xx", 200, None, 0.01)
    assert courier.limits.open_breakers() == 0
    assert courier.limits.recovered == {endpoint}
    courier.limits.leave(endpoint)
    assert len(courier.take()[1]) == 2  # the others, which still hang, take nobody's place


def test_a_retry_is_put_off_for_a_little_at_a_time_since_no_success_pulls_it_forward(world: World) -> None:
    endpoint = world.endpoint(URL)
    courier = world.courier()
    for _ in range(5):
        world.say()
    with world.database.begin() as tx:
        tx.execute(sa.update(deliveries).values(attempts=1))
    for _ in range(TRIP):
        courier.limits.answered(endpoint, "connect", None, None, 0.01)
    assert courier.take()[1] == []
    waits = [(at - world.clock()).total_seconds() for at in due(world)]
    assert OPEN_SECONDS <= min(waits) <= max(waits) <= 2 * OPEN_SECONDS


def test_whoever_was_slow_and_is_quick_again_gets_what_was_put_off(world: World) -> None:
    endpoint = world.endpoint(URL)
    limits = world.courier().limits
    for _ in range(20):
        limits.answered(endpoint, "2xx", 200, None, 8.0)
    ((_, at),) = limits.turns([Waiting("dlv_1", endpoint, 0, off=False)])
    assert at > world.clock() + timedelta(seconds=7)
    assert limits.recovered == set()
    for _ in range(20):
        limits.answered(endpoint, "2xx", 200, None, 0.01)
    assert limits.recovered == {endpoint}


def test_whoever_hung_and_answers_again_is_not_taken_for_slow(world: World) -> None:
    """Nor is an endpoint all of whose requests were under way while the machine was suspended."""
    endpoint = world.endpoint(URL)
    limits = world.courier().limits
    for _ in range(3):
        limits.answered(endpoint, "timeout", None, None, 90.0)
    ((_, at),) = limits.turns([Waiting("dlv_1", endpoint, 0, off=False)])
    assert at > world.clock() + timedelta(seconds=30)
    limits.answered(endpoint, "2xx", 200, None, 0.8)
    assert limits.recovered == {endpoint}
    assert limits.turns([Waiting("dlv_2", endpoint, 0, off=False)])[0][1] < world.clock() + timedelta(seconds=1)


def test_a_cap_of_a_merchant_holds_over_all_couriers(world: World) -> None:
    endpoint = world.endpoint(URL, max_in_flight=3)
    for _ in range(10):
        world.say()
    here, there = world.courier(), world.courier()
    assert len(here.take(2)[1]) == 2
    assert len(there.take()[1]) == 1
    assert len(here.take()[1]) == 0
    assert len([at for at in due(world) if at > world.clock()]) == 7  # nobody here says when there will be room
    assert here.limits.traffic(endpoint).busy == 2
    assert there.limits.traffic(endpoint).busy == 1


def test_a_courier_that_fills_a_cap_alone_leaves_the_rest_for_when_it_is_done(world: World) -> None:
    endpoint = world.endpoint(URL, max_in_flight=2)
    for _ in range(5):
        world.say()
    courier = world.courier()
    assert len(courier.take()[1]) == 2
    assert due(world) == [world.clock()] * 3
    assert courier.limits.full("fresh") == ([endpoint], [])


def test_however_many_merchants_hang_the_next_one_finds_room(world: World) -> None:
    seconds = [0.0]
    limits = EndpointLimits(world.clock, monotonic=lambda: seconds[0])
    for number in range(16):
        merchant = f"mrc_{number}"
        room = limits.share(merchant)
        assert room >= 1
        limits.enter(f"ep_{number}", merchant, room)
        assert limits.share(merchant) == 0
    assert limits._all_busy < IN_FLIGHT + BEYOND
    limits.enter("ep_0", "mrc_0", rest := IN_FLIGHT + BEYOND - limits._all_busy)
    assert limits.share("mrc_next") == 0  # there is no more than all
    limits.enter("ep_0", "mrc_0", -rest)
    for number in range(16):  # what is given back is free for whoever wants it
        limits.enter(f"ep_{number}", f"mrc_{number}", -limits.traffic(f"ep_{number}").busy)
    limits.enter("ep_0", "mrc_0", WORTH_A_CLAIM)
    assert limits.share("mrc_0") == WORTH_A_CLAIM  # a few begin together,
    seconds[0] += 2
    assert limits.share("mrc_0") == IN_FLIGHT - WORTH_A_CLAIM  # and all the room is theirs soon


def test_what_a_merchant_may_have_grows_with_answers_by_as_much_as_is_worth_a_claim(world: World) -> None:
    limits = EndpointLimits(world.clock, monotonic=lambda: 0.0)
    limits.enter("ep", "mrc", 1)
    for _ in range(3 * WORTH_A_CLAIM - 1):
        limits.answered("ep", "2xx", 200, None, 0.01)
    assert limits.share("mrc") == ASSURED + 2 * WORTH_A_CLAIM - 1
    limits.answered("ep", "5xx", 500, None, 0.01)
    assert limits.share("mrc") == ASSURED + WORTH_A_CLAIM - 1  # half of what it had earned
    assert limits.look("fresh").rooms.shares["mrc"] == ASSURED + WORTH_A_CLAIM - 1
    limits.enter("ep_other", "mrc_other", 1)
    assert limits.look("fresh").rooms.shares["mrc"] == ASSURED  # a claim that another one wants too is filled by none
    assert limits.look("fresh").rooms.judged == ["ep"]


def test_what_is_remembered_is_bounded_and_nothing_under_way_is_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOST_KNOWN", "MOST_ROOMY"):
        monkeypatch.setattr(f"services.courier.limits.{name}", 4)
    limits = EndpointLimits(world.clock)
    limits.enter("ep_busy", "mrc_busy", 2)
    for number in range(40):
        for places in (1, -1):
            limits.enter(f"ep_{number}", f"mrc_{number}", places)
    assert len(limits._known) <= 5
    assert len(limits._ramps) <= 5
    monkeypatch.setattr("services.courier.limits.MOST_KNOWN", 1000)
    for number in range(40):
        for places in (1, -1):
            limits.enter(f"ep_{number}", f"mrc_{number}", places)
    assert len(limits._roomy) <= 4
    assert limits.traffic("ep_busy").busy == 2
    assert limits.look("fresh").rooms.known["ep_busy"] == FIRST_WINDOW - 2
    monkeypatch.setattr("services.courier.limits.MOST_NOTED", 0)
    assert limits.look("fresh").most == 0  # too many to tell a claim of: the rules are asked


def test_what_is_left_for_a_crowded_merchant_is_passed_over_and_taken_when_places_are_free(world: World) -> None:
    world.endpoint(URL)
    for _ in range(2):
        world.say()
    courier = world.courier()
    limits = courier.limits
    limits.enter("ep_hangs", world.merchant_id, IN_FLIGHT)
    for _ in range(IN_FLIGHT):  # it was well for long
        limits.answered("ep_hangs", "2xx", 200, None, 0.01)
    assert courier.take()[1] == []
    assert due(world) == [world.clock()] * 2  # neither tried nor deferred
    assert limits.full("fresh") == (["ep_hangs"], [world.merchant_id])
    left = [limits.leave("ep_hangs") for _ in range(WORTH_A_CLAIM)]
    assert left == [set()] * (WORTH_A_CLAIM - 1) + [{"fresh"}]
    assert limits.full("fresh") == (["ep_hangs"], [])
    assert len(courier.take()[1]) == 2


def test_a_rate_limit_gives_each_delivery_a_time_of_its_own(world: World) -> None:
    endpoint = world.endpoint(URL, rate_limit=5.0)
    here, there = world.courier(), world.courier()
    for _ in range(12):
        world.say()
        for courier in (here, there):  # it is known to answer, so that its window is no matter
            courier.limits.answered(endpoint, "2xx", 200, None, 0.01)
    assert len(here.take()[1]) == 5
    assert [round((at - world.clock()).total_seconds(), 3) for at in due(world)] == [
        round(n / 5, 3) for n in range(1, 8)
    ]
    assert there.take()[1] == []
    world.clock.move(seconds=0.4)
    assert len(there.take()[1]) == 2  # one bucket for both
    world.clock.move(seconds=60)
    assert len(here.take()[1]) == 5
    assert due(world) == [world.clock()] * 0


def test_a_rate_limit_never_puts_anything_off_for_long(world: World) -> None:
    world.endpoint(URL, rate_limit=0.01)
    for _ in range(9):
        world.say()
    assert len(world.courier().take()[1]) == 1
    assert max(due(world)) <= world.clock() + timedelta(minutes=5)


@pytest.mark.parametrize("deleted, state", [(False, "held"), (True, "canceled")])
def test_what_is_due_for_an_endpoint_that_is_switched_off_ends_unsent(world: World, deleted: bool, state: str) -> None:
    endpoint = world.endpoint(URL)
    for _ in range(40):
        world.say()
    with world.database.begin() as tx:
        if deleted:
            update_endpoint(tx, endpoint, deleted_at=world.clock())
        else:
            set_disabled(tx, endpoint, world.clock(), "by hand")
    world.deliver()
    assert set(world.rows("deliveries", "state")) == {(state,)}
    assert world.rows("delivery_attempts", "id") == []
    assert world.rows("dead_letters", "id") == []

    world.say()
    assert world.rows("deliveries", "state").count(("held",)) == (0 if deleted else 41)


def test_a_subject_has_one_delivery_at_a_time_and_others_do_not_wait(world: World) -> None:
    world.endpoint(URL, ordering="customer")
    first = world.say(customer="cus_1")
    world.say(customer="cus_1")
    other = world.say(customer="cus_2")
    nobody = [world.say(), world.say(subscription="sub_1")]
    courier = world.courier()
    assert [job.message.message_id for job in courier.take()[1]] == [first, other, *nobody]
    assert courier.take()[1] == []
    assert world.courier().take()[1] == []  # nor does another courier take the second one


@given(st.lists(st.sampled_from([200, 500]), max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_order_means_that_nobody_hears_of_a_later_thing_before_the_earlier_one_is_over(
    world: World, statuses: list[int]
) -> None:
    endpoint = world.endpoint(URL, ordering="customer", schedule=[5, 5])
    said = {world.say(customer=f"cus_{n % 3}"): (f"cus_{n % 3}", n) for n in range(9)}
    couriers, answers = [world.courier(), world.courier()], iter(statuses)
    turns: dict[str, list[int]] = {}
    while due(world):
        world.clock.move(seconds=60)
        in_hand = [(courier, *courier.take()) for courier in couriers]
        for courier, token, jobs in in_hand:
            assert len({job.message.subject for job in jobs}) == len(jobs)
            for job in jobs:
                customer, number = said[job.message.message_id]
                turns.setdefault(customer, []).append(number)
                courier.answer(token, job, next(answers, 200))
    with world.database.begin() as tx:
        update_endpoint(tx, endpoint, deleted_at=world.clock())
    assert all(numbers == sorted(numbers) for numbers in turns.values())
    assert {number for numbers in turns.values() for number in numbers} == set(range(9))
