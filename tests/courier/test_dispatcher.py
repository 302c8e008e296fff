"""What is in hand is sent once and settled sooner or later, whatever clocks, databases and merchants do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.world import World
from courier.dispatching import Client, Office, dispatching, until

from billhook.outlets.webhooks.response import Response
from billhook.queue.steps import Steps
from billhook.rules.breaker import FIRST_WINDOW, OPEN_SECONDS, TRIP
from billhook.store import dead_letters, merchants
from billhook.store.database import Database
from billhook.store.deliveries import NewDelivery, add_deliveries, address, deliveries
from billhook.store.endpoints import create_endpoint, set_disabled, update_endpoint
from billhook.store.messages import Message, add_messages
from billhook.store.plain_deliveries import Settled
from services.courier import delivery as courier_delivery
from services.courier import plain
from services.courier.admission import Admission
from services.courier.limits import ASSURED, IN_FLIGHT, EndpointLimits
from services.courier.returned import SLICE, Returned

URL = "https://merchant.test/hook"
HEALTH = ("failing_since", "last_failure_at", "notices")


def test_what_is_due_is_sent_and_settled(world: World) -> None:
    endpoint = world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        assert office.dispatcher._limits.traffic(endpoint).busy == 1
        office.answer()
        until(lambda: office.states() == ["delivered"])
    assert office.dispatcher._limits.traffic(endpoint).busy == 0
    assert (office.dispatcher._bytes, office.dispatcher._lanes["fresh"].busy) == (0, 0)
    assert world.rows("delivery_attempts", "outcome", "status_code") == [("2xx", 200)]


def test_a_delivery_under_way_is_not_sent_again_when_the_clock_jumps_ahead(world: World) -> None:
    world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        for _ in range(3):
            world.clock.move(seconds=60)
            ahead = world.clock()
            office.look()
            until(lambda ahead=ahead: world.rows("deliveries", "due_at")[0][0] > ahead, "keeping its lease")
        assert len(office.client.sent) == 1
        office.answer()
        until(lambda: office.states() == ["delivered"])
        world.say()
        office.look()
        until(lambda: office.client.sent)
        office.answer()
        until(lambda: office.states() == ["delivered"] * 2)
    assert office.parts.problem is None
    assert world.rows("deliveries", "attempts") == [(1,)] * 2


def test_what_another_courier_tried_meanwhile_is_not_sent_while_ours_is_under_way(world: World) -> None:
    """A database that stood still for longer than a lease: the other one came first, failed, and it is due again."""
    endpoint = world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        with world.database.begin() as tx:
            tx.execute(sa.update(deliveries).values(token=None, due_at=world.clock(), attempts=2, lane="retry"))
        office.look()
        put_off = world.clock() + courier_delivery.Delivery.lease
        until(lambda: world.rows("deliveries", "due_at", "token") == [(put_off, None)], "giving it back")
        until(lambda: office.dispatcher._limits.traffic(endpoint).busy == 1, "leaving its place")
        assert len(office.client.sent) == 1
        office.answer()  # comes too late to count
        until(lambda: len(office.dispatcher._leases) == 0)
        assert world.rows("deliveries", "state", "attempts", "token") == [("due", 2, None)]
        assert world.metrics.jobs_finished.labels("deliveries", "stale")._value.get() == 1
        world.clock.move(seconds=courier_delivery.Delivery.lease.total_seconds())
        office.look()
        until(lambda: office.client.sent, "trying it again")
        office.answer()
        until(lambda: office.states() == ["delivered"])
    assert office.parts.problem is None


def test_leases_are_short_and_renewed_while_a_request_is_under_way(world: World) -> None:
    assert courier_delivery.Delivery.lease <= timedelta(seconds=10)
    world.endpoint(URL)
    world.say()
    with dispatching(world, lease=timedelta(milliseconds=200)) as office:
        until(lambda: office.client.sent)
        for _ in range(3):
            world.clock.move(seconds=0.15)
            kept = world.clock() + timedelta(milliseconds=200)
            until(lambda kept=kept: world.rows("deliveries", "due_at")[0][0] >= kept, "renewing the lease")
        office.answer()
        until(lambda: office.states() == ["delivered"])


def test_a_result_that_cannot_be_written_takes_no_other_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.endpoint(URL)
    for _ in range(FIRST_WINDOW):
        world.say()
    poisoned = world.rows("deliveries", "id")[1][0]
    written, settled = courier_delivery.add_attempts, plain.settle

    def refuse(attempts: Iterable[courier_delivery.Attempt]) -> None:
        if any(attempt.delivery_id == poisoned for attempt in attempts):
            raise sa.exc.DataError("INSERT", {}, ValueError("a byte that no column takes"))

    def write(tx: sa.Connection, attempts: list[courier_delivery.Attempt]) -> None:
        refuse(attempts)
        written(tx, attempts)

    def settle(database: Database, results: Sequence[Settled], now: datetime) -> set[str]:
        refuse(one.attempt for one in results)
        return settled(database, results, now)

    monkeypatch.setattr(courier_delivery, "add_attempts", write)
    monkeypatch.setattr(plain, "settle", settle)
    with dispatching(world) as office:
        until(lambda: len(office.client.sent) == FIRST_WINDOW)
        office.answer()
        until(lambda: Counter(office.states()) == {"delivered": FIRST_WINDOW - 1, "dead": 1})
    with world.database.read() as tx:
        (letter,) = dead_letters.list_dead(tx)
    assert letter["work_id"] == poisoned
    assert "a byte that no column takes" in letter["reason"]


class NoRoom(Exception):
    sqlstate, sqlite_errorname = "53100", "SQLITE_FULL"


@pytest.mark.parametrize("reason", [ConnectionError("server closed the connection"), NoRoom("disk is full")], ids=str)
def test_a_result_waits_for_a_database_that_is_away_or_takes_nothing(
    world: World, reason: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.endpoint(URL)
    world.say()
    away = 3
    settle = courier_delivery.Delivery.effects

    def fail() -> None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise sa.exc.OperationalError("UPDATE", {}, reason)

    def effects(self: courier_delivery.Delivery, *given: object) -> object:
        fail()
        return settle(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(courier_delivery.Delivery, "effects", effects)
    monkeypatch.setattr(plain, "settle", lambda *_: fail())
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        office.answer()
        until(lambda: office.states() == ["delivered"])
    assert len(world.rows("delivery_attempts", "id")) == 1


def test_what_cannot_be_written_for_long_is_sent_again_under_the_same_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billhook.queue.steps.SETTLE_AGAIN_SECONDS", (0.0,))
    endpoint = world.endpoint(URL, max_in_flight=1, ordering="customer")
    world.say(customer="cus_1")
    settle = courier_delivery.Delivery.effects
    away = True

    def effects(self: courier_delivery.Delivery, *given: object) -> object:
        if away:
            raise sa.exc.OperationalError("UPDATE", {}, ConnectionError("server closed the connection"))
        return settle(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(courier_delivery.Delivery, "effects", effects)
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        first = office.client.sent[0][0].headers["webhook-id"]
        office.answer()
        until(lambda: len(office.dispatcher._leases) == 0, "giving it up")
        until(lambda: office.dispatcher._limits.traffic(endpoint).busy == 0, "leaving its place")
        away = False
        world.clock.move(seconds=courier_delivery.Delivery.lease.total_seconds())
        office.look()
        until(lambda: office.client.sent)
        assert office.client.sent[0][0].headers["webhook-id"] == first
        assert office.client.sent[0][0].retry
        office.answer()
        until(lambda: office.states() == ["delivered"])
        assert office.parts.problem is None


def test_a_cap_that_is_known_is_no_reason_to_ask_the_rules_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = world.endpoint(URL, max_in_flight=1)
    asked: list[object] = []
    by_the_rules = Steps.claim
    monkeypatch.setattr(Steps, "claim", lambda *given, **named: asked.append(given) or by_the_rules(*given, **named))
    for _ in range(8):
        world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        assert len(asked) == 1
        while set(office.states()) != {"delivered"}:
            until(lambda: office.client.sent or set(office.states()) == {"delivered"})
            assert len(office.client.sent) <= 1
            office.answer()
        assert len(asked) == 1

        with world.database.begin() as tx:
            update_endpoint(tx, endpoint, max_in_flight=None)
        for _ in range(8):
            world.say()
        office.look()
        until(lambda: len(office.client.sent) == 8, "going out without a cap")


def test_who_is_full_or_behind_a_full_claim_holds_up_no_other(world: World) -> None:
    """Nothing rings here but at the start: what is left, and what lies behind it, is looked for without."""
    with world.database.begin() as tx:
        sealed = world.vault.seal("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        create_endpoint(tx, world.merchant_id, URL, ["hot"], sealed, world.clock())
        for number in range(3):
            create_endpoint(tx, world.merchant_id, f"{URL}/{number}", ["cold"], sealed, world.clock())
    for _ in range(40):
        world.say("hot")
    world.clock.move(seconds=1)
    world.say("cold")
    with dispatching(world, batch=16) as office:
        until(lambda: {f"{URL}/{number}" for number in range(3)} <= {*office.client.urls}, "coming past them")
        assert office.client.urls.count(URL) == FIRST_WINDOW


def test_what_waits_for_room_is_left_without_asking_the_rules(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They read and lock what a claim of plain deliveries has just read, and that twice as slowly."""
    endpoint = world.endpoint(URL)
    asked: list[object] = []
    monkeypatch.setattr(Steps, "claim", lambda *given, **named: asked.append(given) or ("", []))
    for _ in range(5 * FIRST_WINDOW):
        world.say()
    with dispatching(world) as office:
        until(lambda: len(office.client.sent) == FIRST_WINDOW)
        assert "fresh" in office.dispatcher._limits.traffic(endpoint).left
        while set(office.states()) != {"delivered"}:
            until(lambda: office.client.sent or set(office.states()) == {"delivered"})
            office.answer()
    assert asked == []


def test_a_claim_that_fails_gives_its_places_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = world.endpoint(URL, ordering="customer")
    world.say(customer="cus_1")
    prepare, tries = courier_delivery.Delivery.prepare, 0

    def away_at_first(self: courier_delivery.Delivery, *given: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise sa.exc.OperationalError("SELECT", {}, ConnectionError("server closed the connection"))
        return prepare(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(courier_delivery.Delivery, "prepare", away_at_first)
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        assert office.dispatcher._limits.traffic(endpoint).busy == 1
        office.answer()
        until(lambda: office.states() == ["delivered"])
        # What wore out its attempts was let in too, and is buried instead.
        world.say(customer="cus_1")
        with world.database.begin() as tx:
            tx.execute(sa.update(deliveries).where(deliveries.c.state == "due").values(attempts=99))
        office.look()
        until(lambda: sorted(office.states()) == ["dead", "delivered"])
        until(lambda: office.dispatcher._limits.traffic(endpoint).busy == 0, "giving the place back")
        assert office.parts.problem is None


def test_what_was_put_off_is_looked_for_at_its_time_without_a_ring(world: World) -> None:
    world.endpoint(URL, rate_limit=1.0)
    for _ in range(3):
        world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        office.answer()
        until(lambda: Counter(office.states()) == {"delivered": 1, "due": 2})
        assert office.client.sent == []
        assert world.metrics.deferred._value.get() == 2
        world.say()
        office.look()
        until(lambda: world.metrics.deferred._value.get() == 3, "putting off for longer what comes later")
        world.clock.move(seconds=1)
        until(lambda: office.client.sent, "looking again")
        office.answer()
        until(lambda: Counter(office.states()) == {"delivered": 2, "due": 2})
        assert office.dispatcher._lanes["fresh"].look_at is None  # or it would claim again and again


def test_where_there_is_room_again_in_a_lane_it_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    with dispatching(world) as office:
        until(lambda: not any(bell._rung.is_set() for bell in office.bells.values()))
        monkeypatch.setattr(office.bells["retry"], "look", looked.set)
        with office.dispatcher._limits.lock:
            office.dispatcher._limits.crowd("mrc", "retry")  # and its share is free
        office.bells["fresh"].look()
        assert looked.wait(60)


def test_by_the_rules_too_what_lies_behind_a_full_claim_is_looked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.courier.limits.MOST_NOTED", -1)
    endpoint = world.endpoint(URL)
    for _ in range(40):
        world.say()
    with dispatching(world, batch=16) as office:
        until(lambda: len(office.client.sent) == FIRST_WINDOW)
        for _ in range(40):
            office.dispatcher._limits.answered(endpoint, "2xx", 200, None, 0.01)
        office.bells["fresh"].look()
        until(lambda: len(office.client.sent) == 40, "coming past the full claim")


def test_more_that_is_rung_for_than_there_is_room_is_left_to_the_rules(world: World) -> None:
    world.endpoint(URL)
    for _ in range(5):
        world.say()
    ids = [row_id for (row_id,) in world.rows("deliveries", "id")]
    claimed = Office(world).dispatcher._plain.claim("fresh", ids, 2)
    assert sorted([*(job.id for job in claimed.jobs), *(claimed.left or ())]) == ids
    assert len(claimed.jobs) == 2


def test_a_long_line_of_failures_is_written_in_eighths(world: World) -> None:
    world.endpoint(URL)
    world.say()
    office = Office(world)
    (job,) = office.steps.claim(None, 1, None, Admission(office.dispatcher._limits, "fresh").admit)[1]
    failed = office.delivery.result(job, Response("5xx", 500), world.clock())
    line = Returned()
    for _ in range(32 * SLICE):
        line.add(failed)
    assert [len(line.take()) for _ in range(2)] == [4 * SLICE, 3.5 * SLICE]


def test_a_receiver_that_asks_for_a_pause_gets_it_from_all_its_webhooks(world: World) -> None:
    endpoint = world.endpoint(URL)
    with dispatching(world) as office:
        for told in (
            Response("5xx", 500, retry_after="120"),
            Response("4xx", 429, retry_after="120", duration_ms=7000),
        ):
            assert not office.dispatcher._limits.traffic(endpoint).breaker.is_open(world.clock())  # 500 is no reason
            world.say()
            office.look()
            until(lambda: office.client.sent)
            office.answer(told)
            until(lambda: {lane for (lane,) in world.rows("deliveries", "lane")} == {"retry"})
        pause = world.clock() + timedelta(seconds=120)
        assert world.rows("deliveries", "due_at")[1][0] >= pause + timedelta(seconds=7)  # from its answer on
        waits = [at for (at,) in world.rows("deliveries", "due_at")]
        assert waits[0] < pause <= waits[1]
        world.say()
        office.look()
        until(lambda: sum(at >= pause for (at,) in world.rows("deliveries", "due_at")) == 2, "putting it off")
        assert office.client.sent == []
        assert office.dispatcher._limits.traffic(endpoint).breaker.is_open(world.clock())


def test_one_merchant_whose_endpoints_hang_leaves_room_to_the_others(world: World) -> None:
    for _ in range(100):
        world.endpoint(URL)
    for _ in range(FIRST_WINDOW):
        world.say()
    with world.database.begin() as tx:
        other = merchants.create_merchant(tx, "Other Ltd", world.clock())
        sealed = world.vault.seal("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        create_endpoint(tx, other.id, "https://other.test/hook", ["*"], sealed, world.clock())
    with dispatching(world) as office:
        until(lambda: len(office.client.sent) == IN_FLIGHT)  # all of it, while nobody else wants any
        with world.database.begin() as tx:
            message = Message.own(other.id, "order.shipped", "own", "", b"{}", world.clock())
            address(tx, add_messages(tx, [message], world.clock()), world.clock())
        world.clock.move(seconds=1)  # what was put off is due again, and stands before it
        office.look()
        until(lambda: "https://other.test/hook" in office.client.urls)
        assert office.client.urls.count(URL) == IN_FLIGHT


def test_what_waited_for_an_endpoint_that_was_down_falls_due_at_the_first_success(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.courier.dispatcher.PULLED", 4)  # the rest follows
    endpoint = world.endpoint(URL)
    with dispatching(world) as office:
        limits = office.dispatcher._limits
        for _ in range(TRIP):
            limits.answered(endpoint, "connect", None, None, 0.01)
        for _ in range(6):
            world.say()
        office.look()
        until(lambda: all(at > world.clock() for (at,) in world.rows("deliveries", "due_at")))
        first = min(at for (at,) in world.rows("deliveries", "due_at"))
        assert first - world.clock() == timedelta(seconds=OPEN_SECONDS)
        assert office.client.sent == []

        world.clock.at = first
        office.look()
        until(lambda: len(office.client.sent) == 1, "the probe")
        office.answer()
        world.say()
        delivered = 1
        while delivered < 7:
            office.look()
            until(lambda: office.client.sent, "sending what had waited")
            delivered += len(office.client.sent)
            office.answer()
        until(lambda: office.states() == ["delivered"] * 7)
    assert world.clock() == first  # nothing waited for the clock


def test_what_is_due_for_an_endpoint_that_is_down_gets_out_of_the_way_and_no_claim_comes_upon_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.courier.dispatcher.PUT_OFF", 4)  # the rest follows
    monkeypatch.setattr("services.courier.dispatcher.PUT_OFF_AGAIN_SECONDS", 0.0)
    asked: list[object] = []
    monkeypatch.setattr(Steps, "claim", lambda *given, **named: asked.append(given) or ("", []))
    down, well = world.endpoint(URL, "order.*"), world.endpoint("https://well.test/hook", "cart.*")
    with dispatching(world) as office:
        for _ in range(TRIP):
            office.dispatcher._limits.answered(down, "connect", None, None, 0.01)
        for _ in range(10):
            world.say()
        world.say("cart.left")
        office.look()
        until(lambda: office.client.urls == ["https://well.test/hook"], "sending what is for the one that is well")
        rows = sa.select(deliveries.c.due_at).where(deliveries.c.endpoint_id == down)

        def turns() -> list[float]:
            with world.database.read() as tx:
                return sorted((at - world.clock()).total_seconds() for at in tx.execute(rows).scalars())

        until(lambda: turns() == [OPEN_SECONDS * turn for turn in range(1, 11)], "putting off")
        assert office.dispatcher._limits.traffic(well).busy == 1
        assert asked == []


@pytest.mark.parametrize("deleted, state", [(False, "held"), (True, "canceled")])
def test_what_is_due_for_an_endpoint_that_was_down_and_is_switched_off_ends_at_once(
    world: World, deleted: bool, state: str
) -> None:
    endpoint = world.endpoint(URL, "order.*")
    with dispatching(world) as office:
        for _ in range(TRIP):
            office.dispatcher._limits.answered(endpoint, "connect", None, None, 0.01)
        with world.database.begin() as tx:
            if deleted:
                update_endpoint(tx, endpoint, deleted_at=world.clock())
            else:
                set_disabled(tx, endpoint, world.clock(), "by hand")
        rows = [NewDelivery(world.merchant_id, world.say("nobody.hears"), endpoint) for _ in range(3)]
        with world.database.begin() as tx:  # whoever added them had read the endpoint before
            add_deliveries(tx, rows, world.clock())

        def is_over() -> bool:
            office.look()  # as the relay does
            return office.states() == [state] * 3

        until(is_over, "ending what is due")
        assert office.client.sent == []


def test_a_restart_does_not_forget_who_is_down(world: World) -> None:
    endpoint = world.endpoint(URL)
    with world.database.begin() as tx:
        tx.execute(sa.text("UPDATE endpoints SET failing_since = created_at, last_failure_at = created_at"))
    for _ in range(6):
        world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        office.look()
        assert len(office.client.sent) == 1
        office.answer(Response("connect", error="no connection: Connection refused"))
        until(lambda: office.dispatcher._limits.traffic(endpoint).breaker.is_open(world.clock()))


def test_no_more_bodies_are_in_hand_than_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.courier.dispatcher.BYTES_IN_HAND", 1)
    world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        world.say()
        office.look()
        assert office.dispatcher._room_in(office.dispatcher._lanes["fresh"]) == 0
        office.answer()
        until(lambda: office.client.sent)
        office.answer()
        until(lambda: office.states() == ["delivered"] * 2)


def test_retries_and_replays_leave_room_to_first_attempts(world: World) -> None:
    with dispatching(world) as office:
        lanes = office.dispatcher._lanes
        until(lambda: not any(bell._rung.is_set() for bell in office.bells.values()))
        until(lambda: not any(lane.claiming for lane in lanes.values()))
        lanes["retry"].busy = 160
        assert office.dispatcher._room_in(lanes["retry"]) == 0
        assert office.dispatcher._room_in(lanes["replay"]) == 32
        assert office.dispatcher._room_in(lanes["fresh"]) == 224 + 128
        lanes["replay"].claiming = 24  # they may all come
        assert office.dispatcher._room_in(lanes["fresh"]) == 200 + 128
        lanes["replay"].claiming = 0
        lanes["fresh"].busy = 40
        assert office.dispatcher._room_in(lanes["replay"]) == 0
        lanes["retry"].busy = lanes["fresh"].busy = 0


@pytest.mark.parametrize("part", ["_settle", "_serve", "_keep"])
def test_a_part_that_dies_is_a_reason_to_end(world: World, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyError("dlv_1")

    monkeypatch.setattr(f"services.courier.dispatcher.Dispatcher.{part}", dies)
    with dispatching(world) as office:
        until(lambda: office.parts.death is not None)
        assert "ended: KeyError: 'dlv_1'" in str(office.parts.problem)


def test_stopping_waits_for_what_is_under_way(world: World) -> None:
    world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        threading.Timer(0.1, office.answer).start()
        assert office.dispatcher.stop(60)
    assert office.states() == ["delivered"]
    world.say()
    with dispatching(world) as office:
        until(lambda: office.client.sent)
        assert not office.dispatcher.stop(0.05)
    assert isinstance(office.client, Client)
    assert office.client.closed
    with world.database.read() as tx:
        held = sa.select(deliveries.c.token).where(deliveries.c.state == "due")
        assert tx.execute(held).scalar() is not None


def test_stopping_waits_for_what_is_being_claimed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, claiming, go_on = plain.FastPath.claim, threading.Event(), threading.Event()

    def claims(self: plain.FastPath, *given: Any) -> plain.Claimed:
        claimed = claim(self, *given)
        if claimed.jobs:
            claiming.set()
            assert go_on.wait(60)
        return claimed

    monkeypatch.setattr(plain.FastPath, "claim", claims)
    world.endpoint(URL)
    world.say()
    with dispatching(world) as office:
        assert claiming.wait(60)
        stopping = threading.Thread(target=office.dispatcher.stop, args=(60,))
        stopping.start()
        until(office.dispatcher._stopping.is_set)
        go_on.set()
        until(lambda: office.client.sent)
        office.answer()
        stopping.join()
    assert office.states() == ["delivered"]


def test_what_is_left_for_want_of_a_share_is_looked_for_once_there_is_one_and_not_before(world: World) -> None:
    limits = EndpointLimits(world.clock)
    with limits.lock:
        limits.enter("ep_crowd", "mrc_crowd", IN_FLIGHT)
        limits.enter("ep", "mrc", ASSURED)
        limits.crowd("mrc", "fresh")
    for _ in range(2 * ASSURED):  # it has room enough
        limits.answered("ep", "2xx", 200, None, 0.01)
    looked = [(limits.leave("ep"), limits.share("mrc")) for _ in range(ASSURED)]
    assert [share > 0 for lanes, share in looked if lanes] == [True]


def test_whoever_is_short_of_room_goes_on_as_its_own_are_answered(world: World) -> None:
    other, theirs = "https://other.test/hook", 2 * ASSURED
    for _ in range(100):
        world.endpoint(URL)
    for _ in range(FIRST_WINDOW):
        world.say()
    with dispatching(world) as office:
        until(lambda: len(office.client.sent) == IN_FLIGHT)
        with world.database.begin() as tx:
            merchant = merchants.create_merchant(tx, "Other Ltd", world.clock())
            sealed = world.vault.seal("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            endpoint = create_endpoint(tx, merchant.id, other, ["*"], sealed, world.clock()).id
            said = [Message.own(merchant.id, "order.shipped", "own", "", b"{}", world.clock()) for _ in range(theirs)]
            address(tx, add_messages(tx, said, world.clock()), world.clock())
        for _ in range(2 * ASSURED):  # it is known to answer
            office.dispatcher._limits.answered(endpoint, "2xx", 200, None, 0.01)
        office.look()
        answered = 0
        while answered < theirs:
            until(lambda: other in office.client.urls, "sending the other's")
            waiting = list(office.client.sent)  # the dispatcher goes on adding to it
            theirs_now = [sent for sent in waiting if sent[0].url == other]
            assert len(theirs_now) <= ASSURED
            assert len(waiting) - len(theirs_now) == IN_FLIGHT
            for sent in theirs_now:
                office.client.sent.remove(sent)
                answered += 1
                sent[1](Response("2xx", 200))

        def is_over() -> bool:
            office.answer()
            return set(office.states()) == {"delivered"}

        until(is_over, "settling all of it")


def test_what_arrived_is_written_before_a_pile_of_failures_that_came_earlier(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And failures a few at a time, each of which says since when its endpoint fails."""
    written: list[list[str]] = []
    write = plain.settle

    def settle(database: Database, results: Sequence[Settled], now: datetime) -> set[str]:
        written.append([one.attempt.outcome for one in results])
        if len(written) == 1:
            pile.wait(20)
        return write(database, results, now)

    pile = threading.Event()
    monkeypatch.setattr(plain, "settle", settle)
    hang = [world.endpoint(URL, "order.*") for _ in range(2 * SLICE)]
    well = world.endpoint("https://well.test/hook", "cart.*")
    world.say()
    world.say("cart.left")
    with dispatching(world) as office:
        until(lambda: len(office.client.sent) == len(hang) + 1)
        office.client.sent.sort(key=lambda sent: sent[0].url == "https://well.test/hook")
        office.answer(*[Response("timeout", error="no complete answer within 3 s")] * len(hang))
        pile.set()
        until(lambda: Counter(office.states()) == {"due": len(hang), "delivered": 1})
        until(lambda: [lane for (lane,) in world.rows("deliveries", "lane")].count("retry") == len(hang))
    outcomes = [outcome for batch in written for outcome in batch]
    assert outcomes.index("2xx") < len(outcomes) - SLICE
    assert max(batch.count("timeout") for batch in written) <= SLICE
    failing = {row[0]: row[1] == row[2] == world.clock() for row in world.rows("endpoints", "id", *HEALTH) if row[1]}
    assert failing == dict.fromkeys(hang, True)
    assert well not in failing
