"""What is plain is claimed and settled in one go, exactly as it would be by the rules; all else is left to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from consumers.world import Silence, World

from billhook.queue.steps import Steps
from billhook.rules.delivery import DELIVERED, FRESH, RETRY
from billhook.rules.retry import Done, Retry
from billhook.store import work
from billhook.store.database import Database
from billhook.store.deliveries import Attempt, address, deliveries, outbound_messages
from billhook.store.endpoints import create_endpoint, endpoints, endpoints_of
from billhook.store.merchants import create_merchant
from billhook.store.messages import Message, add_messages
from billhook.store.plain_deliveries import Rooms, Settled, Taken, Wanted, settle, take
from billhook.store.queue_pauses import pause, resume
from services.courier.delivery import Delivery, DeliveryJob, Tried

URL = "https://merchant.test/hook"
LEASE = timedelta(seconds=8)


def rooms(
    known: dict[str, int],
    others: int,
    shares: dict[str, int] | None = None,
    other_shares: int = 100,
    capped: Sequence[str] = (),
    judged: Sequence[str] = (),
) -> Rooms:
    return Rooms(known, others, shares or {}, other_shares, dict.fromkeys(capped, 0), judged)


MANY = rooms({}, 100)


@pytest.fixture
def world(database: Database) -> World:
    return World.begin(database)


def claim(world: World, ids: list[str] | None = None, room: Rooms = MANY, **wanted: Any) -> Taken:
    looked_at = Wanted(
        **{"lane": FRESH, "ids": ids, "limit": 100, "passing_over": (), "passing_over_all_of": (), **wanted}
    )
    return take(world.database, looked_at, room, max_attempts=5, now=world.clock(), lease=LEASE)


def change(world: World, table: sa.Table, row_id: str, **values: Any) -> None:
    with world.database.begin() as tx:
        tx.execute(sa.update(table).where(table.c.id == row_id).values(**values))


def delivery_of(world: World, message_id: str) -> str:
    return {message: delivery for delivery, message in world.rows("deliveries", "id", "message_id")}[message_id]


def said(world: World, **about: str) -> str:
    """A delivery, by its id."""
    return delivery_of(world, world.say(**about))


def test_a_paused_queue_gives_out_nothing(world: World) -> None:
    world.endpoint(URL)
    delivery = said(world)
    with world.database.begin() as tx:
        pause(tx, "deliveries", "a bad release", world.clock(), by="ada")
    assert [claim(world, ids).messages for ids in (None, [delivery])] == [[], []]
    with world.database.begin() as tx:
        resume(tx, "deliveries")
    assert len(claim(world).messages) == 1


def test_a_claim_brings_all_that_is_needed_to_send(world: World) -> None:
    endpoint = world.endpoint(URL, schedule=[5, 5], headers=b"sealed", previous_secrets=[("old", 7)])
    delivery = said(world)
    change(world, deliveries, delivery, attempts=2, attempts_before=3)
    found = claim(world, [delivery])
    (message,) = found.messages
    with world.database.read() as tx:
        row = tx.execute(sa.select(deliveries)).mappings().one()
        (by_the_rules,) = outbound_messages(tx, [{**row, "endpoint": endpoints_of(tx, [endpoint])[endpoint]}])
    assert message == by_the_rules
    assert (message.attempts, message.number) == (3, 6)
    assert (row["token"], row["due_at"]) == (found.token, world.clock() + LEASE)
    assert found.due == [world.clock()]
    assert claim(world, [delivery]).messages == []  # it is ours


def test_an_endpoint_that_is_known_to_fail_is_plain_and_has_the_room_that_it_is_known_by(world: World) -> None:
    """By the rules, a hundred endpoints that hang were a tenth of a second for whoever came behind them."""
    now = world.clock()
    known, unknown = (world.endpoint(URL, failing_since=now, last_failure_at=now) for _ in range(2))
    for _ in range(3):
        world.say()
    found = claim(world, room=rooms({known: 2}, 100, judged=[known]))
    assert [message.endpoint.id for message in found.messages] == [known, known]
    assert [endpoint for _, endpoint, _ in found.waiting] == [known]
    assert [endpoint for _, endpoint in found.left] == [unknown] * 3


def test_what_rules_have_to_be_asked_for_is_left(world: World) -> None:
    now = world.clock()
    world.endpoint(URL, "plain.*")
    plain = said(world, event_type="plain.one")
    left = {}
    for event_type, options in {
        "capped.one": {"max_in_flight": 100},
        "limited.one": {"rate_limit": 100.0},
        "failing.one": {"failing_since": now, "last_failure_at": now},
        "ordered.one": {"ordering": "customer"},
    }.items():
        world.endpoint(URL, event_type, **options)
        left[said(world, event_type=event_type, customer="cus_1")] = event_type
    for event_type, values in {"off.one": {"disabled_at": now}, "gone.one": {"deleted_at": now}}.items():
        endpoint = world.endpoint(URL, event_type)
        left[said(world, event_type=event_type)] = event_type
        change(world, endpoints, endpoint, **values)
    for event_type, values in {"died.one": {"token": "tok_dead"}, "worn.out": {"attempts": 5}}.items():
        world.endpoint(URL, event_type)
        left[said(world, event_type=event_type)] = event_type
        change(world, deliveries, [*left][-1], **values)
    later, elsewhere, over = (said(world, event_type="plain.one") for _ in range(3))
    change(world, deliveries, later, due_at=now + timedelta(seconds=1))
    change(world, deliveries, elsewhere, lane=RETRY)
    change(world, deliveries, over, state=DELIVERED)

    before = world.rows("deliveries", "id", "state", "due_at", "attempts", "token")
    found = claim(world)
    assert [message.delivery_id for message in found.messages] == [plain]
    assert sorted(row_id for row_id, _ in found.left) == sorted(left)
    after = world.rows("deliveries", "id", "state", "due_at", "attempts", "token")
    assert [row for row in after if row[0] != plain] == [row for row in before if row[0] != plain]
    assert claim(world, [*left, later, elsewhere, over]).messages == []


def test_no_endpoint_gets_more_than_there_is_room_for(world: World) -> None:
    busy, new, full = (world.endpoint(URL, f"{name}.one") for name in ("busy", "new", "full"))
    ids = {name: [said(world, event_type=f"{name}.one") for _ in range(4)] for name in ("busy", "new", "full")}
    found = claim(world, None, rooms({busy: 3, full: 0}, 2))
    assert sorted(message.delivery_id for message in found.messages) == sorted(ids["busy"][:3] + ids["new"][:2])
    waiting = [(ids["busy"][3], busy), *((row_id, new) for row_id in ids["new"][2:]), *((i, full) for i in ids["full"])]
    assert sorted(found.waiting) == sorted((*both, world.merchant_id) for both in waiting)
    assert found.left == []
    assert {message.endpoint.id for message in found.messages} == {busy, new}
    rest = claim(world, None, rooms({full: 5}, 5), limit=3, passing_over=[full])
    assert sorted(message.delivery_id for message in rest.messages) == sorted([ids["busy"][3], *ids["new"][2:]])
    assert len(claim(world, ids["full"], rooms({full: 5}, 5), limit=3).messages) == 3


def test_a_cap_that_the_claim_is_told_of_is_counted_over_all_couriers(world: World) -> None:
    endpoint, other = world.endpoint(URL, "capped.one", max_in_flight=5), world.endpoint(URL, "plain.one")
    ids = [said(world, event_type="capped.one") for _ in range(8)]
    plain = said(world, event_type="plain.one")
    elsewhere, died, over = ids[:3]
    until = world.clock() + timedelta(seconds=1)
    change(world, deliveries, elsewhere, token="tok_elsewhere", due_at=until, attempts=1)
    change(world, deliveries, died, token="tok_died", attempts=1)
    change(world, deliveries, over, state=DELIVERED, token=None)
    found = claim(world, None, rooms({endpoint: 100}, 100, capped=[endpoint]))
    assert sorted(message.delivery_id for message in found.messages) == sorted([*ids[3:7], plain])
    assert {message.endpoint.id for message in found.messages} == {endpoint, other}
    assert found.left == [(died, endpoint)]
    assert found.waiting == [(ids[7], endpoint, world.merchant_id)]
    assert found.places == {endpoint: 4}
    again = claim(world, [ids[7]], rooms({}, 100, capped=[endpoint]))
    assert (again.messages, again.left) == ([], [(ids[7], endpoint)])  # the rules say when there will be room
    # What is in hand here takes no place from itself: as much more may be taken as is to be in hand.
    room = Rooms({}, 100, {}, 100, {endpoint: 1 - 4})
    assert len(claim(world, [ids[7]], room, mine=[found.token]).messages) == 1
    change(world, deliveries, ids[7], token=None, due_at=world.clock(), attempts=0)
    change(world, deliveries, ids[3], state=DELIVERED, token=None)
    assert len(claim(world, [ids[7]], rooms({}, 100, capped=[endpoint])).messages) == 1


def test_two_claims_at_once_never_take_more_than_a_cap(world: World) -> None:
    """Each would count what is under way before the other has said what it took."""
    endpoint = world.endpoint(URL, max_in_flight=3)
    ids = [said(world) for _ in range(40)]
    room = rooms({}, 100, capped=[endpoint])
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda start: claim(world, ids[start::4], room), range(4))]
    assert sum(len(one.messages) for one in found) == 3


def test_no_merchant_gets_more_than_its_share(world: World) -> None:
    full, roomy = world.endpoint(URL, "full.one"), world.endpoint(URL, "roomy.one")
    for _ in range(4):
        said(world, event_type="full.one")
    mine = [said(world, event_type="roomy.one") for _ in range(4)]
    with world.database.begin() as tx:
        other = create_merchant(tx, "Other Ltd", world.clock()).id
        there = create_endpoint(tx, other, URL, ["*"], world.vault.seal("s"), world.clock()).id
        messages = [Message.own(other, "order.shipped", "own", "", b"{}", world.clock()) for _ in range(3)]
        address(tx, add_messages(tx, messages, world.clock()), world.clock())
    # What its full endpoint cannot take costs the merchant nothing of its share.
    found = claim(world, None, rooms({full: 0}, 100, {world.merchant_id: 3}, 2))
    assert Counter(message.endpoint.id for message in found.messages) == {roomy: 3, there: 2}
    waiting = Counter((endpoint, merchant) for _, endpoint, merchant in found.waiting)
    assert waiting == {(full, world.merchant_id): 4, (roomy, world.merchant_id): 1, (there, other): 1}

    for ids in (None, mine):
        rest = claim(world, ids, passing_over_all_of=[world.merchant_id])
        assert [message.endpoint.id for message in rest.messages] == ([] if ids else [there])
        assert (rest.waiting, rest.left) == ([], [])


def attempt_of(world: World, delivery: str, **values: Any) -> Attempt:
    fields: dict[str, Any] = {
        "merchant_id": world.merchant_id,
        "delivery_id": delivery,
        "number": 1,
        "started_at": world.clock(),
        "duration_ms": 7,
        "outcome": "2xx",
        "status_code": 200,
        "error": None,
        "response": b'\x00\xff"\\',
        "response_headers": (("Server", 'a "b"'), ("X-é", "")),
        "url": "https://merchant.test/?sp=%2Fa",
        "request_headers": (("webhook-id", "msg_1"),),
    }
    return Attempt(**{**fields, **values})


def test_what_is_settled_at_once_reads_as_if_it_were_settled_by_the_rules(world: World) -> None:
    world.endpoint(URL)
    at: datetime = world.clock() + timedelta(seconds=5, microseconds=3)
    outcomes = [Done(DELIVERED), Retry(at, 'answered 500 "no"'), Retry(at, "replayed")]
    written = []
    for at_once in (True, False):
        ids = [said(world) for _ in outcomes]
        change(world, deliveries, ids[2], lane="replay")
        found = claim(world, ids[:2])
        replayed = claim(world, ids[2:], lane="replay")
        messages = {message.delivery_id: message for message in (*found.messages, *replayed.messages)}
        tokens = {ids[0]: found.token, ids[1]: found.token, ids[2]: replayed.token}
        attempts = [attempt_of(world, row_id, error=None if n else "none") for n, row_id in enumerate(ids)]
        world.clock.move(seconds=1)
        if at_once:
            given = [
                Settled(tokens[ids[0]], DELIVERED, None, None, attempts[0]),
                *(
                    Settled(tokens[i], work.DUE, o.at, o.reason, a)  # type: ignore[union-attr]
                    for i, o, a in zip(ids[1:], outcomes[1:], attempts[1:], strict=True)
                ),
            ]
            assert settle(world.database, given, world.clock()) == set(ids)
            assert settle(world.database, given, world.clock()) == set()  # nobody's any more
        else:
            steps = Steps(Delivery(world.vault), world.database, Silence(), world.metrics, world.clock)
            steps.settle(
                tokens,
                [
                    (DeliveryJob(messages[i]), outcome, Tried(attempt, None, connected=False))
                    for i, outcome, attempt in zip(ids, outcomes, attempts, strict=True)
                ],
            )
        names = ("id", "state", "due_at", "finished_at", "lane", "last_error", "token", "attempts")
        rows = {row[0]: row[1:] for row in world.rows("deliveries", *names)}
        tries = {
            row[0]: row[1:]
            for row in world.rows("delivery_attempts", "delivery_id", *(n for n in Attempt.__struct_fields__[2:]))
        }
        elapsed = world.clock()
        written.append([(*_since(rows[row_id], elapsed), *_since(tries[row_id], elapsed)) for row_id in ids])
        world.clock.move(seconds=-1)
    assert written[0] == written[1]


def _since(row: tuple[Any, ...], now: datetime) -> tuple[Any, ...]:
    return tuple(value - now if isinstance(value, datetime) else value for value in row)


def test_whoever_lost_a_lease_settles_nothing(world: World) -> None:
    world.endpoint(URL)
    mine, lost = said(world), said(world)
    token = claim(world).token
    change(world, deliveries, lost, token="tok_of_another")
    given = [Settled(token, DELIVERED, None, None, attempt_of(world, row_id)) for row_id in (mine, lost)]
    assert settle(world.database, given, world.clock()) == {mine}
    assert world.rows("delivery_attempts", "delivery_id") == [(mine,)]
    assert dict(world.rows("deliveries", "id", "state"))[lost] == work.DUE


def test_an_answer_that_a_database_cannot_hold_is_refused_whole(world: World) -> None:
    world.endpoint(URL)
    one, other = said(world), said(world)
    token = claim(world).token
    given = [
        Settled(token, DELIVERED, None, None, attempt_of(world, one)),
        Settled(token, DELIVERED, None, None, attempt_of(world, other, number=None)),
    ]
    with pytest.raises(sa.exc.DBAPIError):
        settle(world.database, given, world.clock())
    assert world.rows("delivery_attempts", "id") == []
