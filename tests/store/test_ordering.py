"""The order's rule, as a table: what stands before a delivery, and whether that holds it up."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.history import endpoint_of, said, sent

from billhook.store import queues, work
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries
from billhook.store.endpoints import Endpoint
from billhook.store.ordering import SOON, in_turn, release
from billhook.store.replays import advance, create_replay

HOUR = timedelta(hours=1)
BEFORE, LATER = NOW - timedelta(hours=1), NOW - timedelta(minutes=1)


def two_in_a_row(tx: Tx, state: str) -> tuple[Endpoint, str, str]:
    """An endpoint, and two deliveries about one customer: one in that state, and one that is due."""
    endpoint = endpoint_of(tx, "mrc_a", BEFORE)
    ids = []
    for at, its_state in ((BEFORE, state), (LATER, "due")):
        ids.append(sent(tx, endpoint, said(tx, "mrc_a", at), at, state=its_state, subject="cus_1"))
    return endpoint, ids[0], ids[1]


def waits(tx: Tx, delivery_id: str) -> bool:
    row = tx.execute(sa.select(deliveries).where(deliveries.c.id == delivery_id)).mappings().one()
    ready, waiting = in_turn(tx, [dict(row)], NOW)
    assert all(at >= NOW + timedelta(seconds=1) for _, at in waiting)
    return not ready


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("due", (True, True)),
        ("held", (False, False)),
        ("held, and asked for", (True, True)),
        ("held, and asked for elsewhere", (False, False)),
        ("held, and asked for until it came", (False, False)),
        ("held, and passed by who asked for it", (False, False)),
        *((state, (False, False)) for state in ("delivered", "dead", "canceled", "expired")),
        ("dead, and replayed", (False, True)),
        ("delivered, and replayed", (False, True)),
        ("held, and replayed", (True, True)),
    ],
)
def test_what_holds_up_a_later_delivery(
    database: Database, state: str, expected: tuple[bool, bool], replayed: bool
) -> None:
    state, _, asked = state.partition(", and ")
    with database.begin() as tx:
        endpoint, earlier, later = two_in_a_row(tx, state)
        if asked == "replayed":
            queues.replay(tx, "deliveries", [earlier], by="key_1", now=NOW)
        if "asked for" in asked:
            whose = endpoint_of(tx, "mrc_a", BEFORE) if asked.endswith("elsewhere") else endpoint
            span = {"since": BEFORE} if "until" not in asked else {"since": BEFORE - HOUR, "until": BEFORE - HOUR / 2}
            job = create_replay(
                tx, "mrc_a", kind="replay", endpoint=whose, states=["held"], by="key_1", now=NOW, **span
            )
            if asked.startswith("passed"):
                advance(tx, job.id, earlier, 0)
        tx.execute(sa.update(deliveries).where(deliveries.c.id == later).values(replayed=replayed))
        assert waits(tx, later) is expected[replayed]
        assert not waits(tx, earlier)


def test_what_is_just_being_settled_is_asked_about_again_in_a_moment(postgres_database: Database) -> None:
    """Whoever settles it looked for those that wait before this one was there: nobody would ring for it."""
    with postgres_database.begin() as tx:
        _, first, second = two_in_a_row(tx, "due")
        lease = NOW + timedelta(seconds=8)
        tx.execute(sa.update(deliveries).where(deliveries.c.id == first).values(token="tok_1", due_at=lease))
        row = dict(tx.execute(sa.select(deliveries).where(deliveries.c.id == second)).mappings().one())
    with postgres_database.begin() as settling:
        work.lock_claimed(settling, deliveries, {first: "tok_1"})
        with postgres_database.begin() as claiming:
            assert in_turn(claiming, [row], NOW) == ([], [(row, NOW + SOON)])
    with postgres_database.begin() as claiming:
        assert in_turn(claiming, [row], NOW) == ([], [(row, lease)])
        with postgres_database.begin() as settling:  # has to wait for the claim, and sees what that leaves
            locked = sa.select(deliveries.c.id).where(deliveries.c.id == first).with_for_update(skip_locked=True)
            assert settling.execute(locked).all() == []


def test_a_turn_comes_when_the_one_before_is_over_also_behind_one_that_is_replayed(database: Database) -> None:
    with database.begin() as tx:
        endpoint, first, replayed = two_in_a_row(tx, "due")
        new = sent(tx, endpoint, said(tx, "mrc_a", NOW), NOW, state="due", subject="cus_1")
        tx.execute(sa.update(deliveries).where(deliveries.c.id == replayed).values(replayed=True))
        tx.execute(sa.update(deliveries).values(due_at=NOW + timedelta(minutes=5)))
        nexts = release(tx, {first: (endpoint.id, "cus_1")}, NOW)
        assert {one.delivery_id for one in nexts} == {replayed, new}
        assert set(tx.execute(sa.select(deliveries.c.due_at).where(deliveries.c.id != first)).scalars()) == {NOW}

        retry = NOW + timedelta(minutes=5)  # what was tried waits for its retry, whoever is over
        tx.execute(sa.update(deliveries).values(due_at=retry, attempts=1))
        release(tx, {first: (endpoint.id, "cus_1")}, NOW)
        assert set(tx.execute(sa.select(deliveries.c.due_at)).scalars()) == {retry}
