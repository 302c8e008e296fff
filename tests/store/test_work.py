"""Work that is a row: claimed by one, settled once, due again when its worker is gone."""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.dunning import new_attempt, new_case
from store.events import put, row
from store.history import delivery, endpoint_of

from billhook.rules.delivery import LONGEST_WAIT_SECONDS
from billhook.store import dead_letters, queues, work
from billhook.store.database import Database, Tx
from billhook.store.dead_letters import DeadLetter
from billhook.store.deliveries import deliveries
from billhook.store.dunning_cases import add_case
from billhook.store.inbox import inbox
from billhook.store.payment_attempts import add_attempt, change_attempt, payment_attempts
from billhook.store.work import Claim

LEASE = timedelta(minutes=1)
AFTER = NOW + LEASE
AMONG = ("mails", "inbox", "documents")


def claim(
    database: Database, ids: Collection[str] | None = None, *, limit: int = 100, at: timedelta = timedelta(0)
) -> Claim:
    with database.begin() as tx:
        return work.claim(tx, inbox, ids=ids, limit=limit, max_attempts=3, now=NOW + at, lease=LEASE)


def ids(claimed: Claim) -> list[str]:
    return [claimed_row["id"] for claimed_row in claimed.rows]


def test_claimed_work_is_nobody_elses_until_the_lease_ends(database: Database) -> None:
    [event] = put(database, 1)
    first = claim(database)
    assert ids(first) == [event]
    assert first.rows[0]["attempts"] == 1
    assert first.rows[0]["due_at"] == NOW
    assert ids(claim(database, at=LEASE - timedelta(microseconds=1))) == []
    again = claim(database, at=LEASE)
    assert ids(again) == [event]
    assert again.rows[0]["attempts"] == 2
    assert again.token != first.token


def test_whoever_lost_the_lease_holds_nothing(database: Database) -> None:
    events = put(database, 2)
    slow = claim(database)
    fast = claim(database, events[:1], at=LEASE)
    with database.begin() as tx:
        assert work.lock_claimed(tx, inbox, dict.fromkeys(events, slow.token)) == {events[1]}
        assert work.lock_claimed(tx, inbox, dict.fromkeys(events, fast.token)) == {events[0]}
        assert work.lock_claimed(tx, inbox, {events[0]: fast.token, events[1]: slow.token}) == set(events)
        work.finish(tx, inbox, [events[0]], "processed", AFTER)
        assert work.lock_claimed(tx, inbox, dict.fromkeys(events, fast.token)) == set()
    finished = row(database, events[0])
    assert (finished["state"], finished["token"], finished["finished_at"]) == ("processed", None, AFTER)


def test_only_the_ids_asked_for_are_claimed_and_only_if_due(database: Database) -> None:
    events = put(database, 4)
    with database.begin() as tx:
        work.finish(tx, inbox, [events[0]], "processed", NOW)
        work.defer_claimed(tx, inbox, [(events[1], AFTER, "later")])
    assert ids(claim(database, [*events[:3], "evt_none"])) == [events[2]]
    assert ids(claim(database, [])) == []


def test_without_ids_the_longest_due_comes_first(database: Database) -> None:
    events = put(database, 3)
    with database.begin() as tx:
        work.defer_claimed(tx, inbox, [(events[2], NOW - timedelta(hours=1), "late")])
        assert work.due_ids(tx, inbox, now=NOW, limit=1) == [events[2]]
    assert ids(claim(database, limit=1)) == [events[2]]
    assert ids(claim(database, limit=1)) in ([events[0]], [events[1]])


def test_what_is_deferred_falls_due_at_its_time_with_its_error(database: Database) -> None:
    events = put(database, 2)
    claim(database)
    with database.begin() as tx:
        work.defer_claimed(tx, inbox, [(events[0], AFTER, "slow"), (events[1], AFTER + LEASE, "slower")])
    waiting = row(database, events[0])
    assert (waiting["state"], waiting["due_at"], waiting["last_error"], waiting["token"]) == (
        ("due", AFTER, "slow", None)
    )
    assert ids(claim(database, at=LEASE)) == [events[0]]
    assert ids(claim(database, at=LEASE * 2, ids=[events[1]])) == [events[1]]


def test_what_was_only_deferred_is_no_attempt(database: Database) -> None:
    [event] = put(database, 1)
    claim(database)
    with database.begin() as tx:
        work.defer_claimed(tx, inbox, [(event, AFTER, "busy")], counted=False)
    again = claim(database, at=LEASE)
    assert [claimed["attempts"] for claimed in again.rows] == [1]


def test_work_whose_worker_always_died_is_worn_out(database: Database) -> None:
    [event] = put(database, 1)
    for attempt in range(3):
        assert ids(claim(database, at=LEASE * attempt)) == [event]
    last = claim(database, at=LEASE * 3)
    assert last.rows == []
    assert [(worn["id"], worn["attempts"]) for worn in last.worn_out] == [(event, 4)]


def test_what_is_given_up_says_why_and_is_not_claimed_again(database: Database) -> None:
    events = put(database, 2)
    claim(database)
    with database.begin() as tx:
        work.give_up(tx, inbox, [(events[0], "no id"), (events[1], "no currency")], NOW)
    assert [(row(database, event)["state"], row(database, event)["last_error"]) for event in events] == [
        ("dead", "no id"),
        ("dead", "no currency"),
    ]
    assert ids(claim(database, at=LEASE * 9)) == []


def test_two_claims_at_once_never_share_a_row(database: Database) -> None:
    events = put(database, 200)
    taken: list[str] = []
    failures: list[BaseException] = []

    def worker(named: Collection[str] | None) -> None:
        try:
            while mine := ids(claim(database, named, limit=7)):
                taken.extend(mine)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=worker, args=(named,)) for named in (None, events, None, events[::-1])]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert failures == []
    assert sorted(taken) == sorted(events)


def test_a_claim_passes_over_rows_that_another_transaction_has_in_hand(postgres_database: Database) -> None:
    events = put(postgres_database, 3)
    with postgres_database.begin() as tx:
        tx.execute(sa.select(inbox.c.id).where(inbox.c.id == events[0]).with_for_update())
        assert ids(claim(postgres_database)) == events[1:]


def test_replaying_gives_dead_and_finished_work_a_new_budget(database: Database) -> None:
    events = put(database, 3)
    claim(database, events[:2])
    with database.begin() as tx:
        work.finish(tx, inbox, [events[0]], "processed", NOW)
        work.give_up(tx, inbox, [(events[1], "broken")], NOW)
        dead_letters.bury(tx, "inbox", [DeadLetter("mrc_a", events[1], "broken", 1)], NOW)
        assert set(queues.replay(tx, "inbox", events, by="usr_1", now=AFTER)["inbox"]) == set(events[:2])
        assert dead_letters.list_dead(tx) == []
        [letter] = tx.execute(sa.select(dead_letters.dead_letters)).mappings()
    assert (letter["resolution"], letter["resolved_by"]) == ("replayed", "usr_1")
    for event in events[:2]:
        revived = row(database, event)
        assert (revived["state"], revived["attempts"], revived["due_at"], revived["finished_at"]) == (
            ("due", 0, AFTER, None)
        )


def test_work_has_one_open_dead_letter_and_all_its_closed_ones(database: Database) -> None:
    letter = DeadLetter("mrc_a", "evt_1", "broken", 11)
    with database.begin() as tx:
        dead_letters.bury(tx, "inbox", [letter], NOW)
        dead_letters.bury(tx, "documents", [letter], NOW)
    with pytest.raises(sa.exc.IntegrityError), database.begin() as tx:
        dead_letters.bury(tx, "inbox", [letter], NOW)
    with database.begin() as tx:
        assert queues.discard(tx, "inbox", ["evt_1"], by="usr_1", now=AFTER) == 1
        assert queues.discard(tx, "inbox", ["evt_1"], by="usr_2", now=AFTER) == 0
        dead_letters.bury(tx, "inbox", [letter], AFTER)
        [open_letter] = dead_letters.list_dead(tx, queue="inbox")
        assert dead_letters.list_dead(tx, merchant_id="mrc_b") == []
        assert len(dead_letters.list_dead(tx, merchant_id="mrc_a", before="dlq_z")) == 2
        assert dead_letters.get_dead(tx, open_letter["id"]) == open_letter
        closed = tx.execute(
            sa.select(dead_letters.dead_letters).where(dead_letters.dead_letters.c.resolution == "discarded")
        ).mappings()
        assert [(c["resolved_by"], c["resolved_at"]) for c in closed] == [("usr_1", AFTER)]


def test_the_backlog_tells_ready_running_scheduled_and_expired_apart(database: Database) -> None:
    events = put(database, 5)
    with database.begin() as tx:
        assert state(tx, now=NOW - LEASE).oldest_ready_seconds == 0.0
    claim(database, [events[0]])
    claim(database, [events[1]], at=LEASE * 2)
    with database.begin() as tx:
        work.defer_claimed(tx, inbox, [(events[2], NOW + LEASE * 9, "later")])
        work.finish(tx, inbox, [events[3]], "processed", NOW)
        now = NOW + LEASE * 2
        assert state(tx, now=now) == work.Backlog(
            ready=2, running=1, scheduled=1, expired_leases=1, oldest_ready_seconds=120.0
        )
        assert (state(tx, now=now, most=1).ready, state(tx, now=now, most=1).oldest_ready_seconds) == (1, 120.0)


def state(tx: Tx, **asked: Any) -> work.Backlog:
    """Of the inbox, between two queues that are empty."""
    mails, of_inbox, documents = work.backlogs(tx, [(queues.QUEUES[name], None) for name in AMONG], **asked)
    assert mails == documents == work.Backlog(0, 0, 0, 0, 0.0)
    return of_inbox


def test_what_a_clock_put_off_that_was_ahead_falls_due_when_it_is_set_back(database: Database) -> None:
    ahead = NOW + timedelta(days=400)
    made_ahead, claimed_ahead, failed_ahead, in_hand, waiting = put(database, 5)
    with database.begin() as tx:
        tx.execute(sa.update(inbox).where(inbox.c.id == made_ahead).values(received_at=AFTER, due_at=AFTER))
        left = work.claim(tx, inbox, ids=[claimed_ahead], limit=1, max_attempts=3, now=ahead, lease=LEASE)
        failed = work.claim(tx, inbox, ids=[failed_ahead], limit=1, max_attempts=3, now=ahead, lease=LEASE)
        work.defer_claimed(tx, inbox, [(failed.rows[0]["id"], ahead + timedelta(seconds=5), "no answer")])
    held = claim(database, [in_hand])
    with database.begin() as tx:
        work.defer(tx, inbox, [(waiting, NOW + timedelta(hours=8))])
    before = {row_id: row(database, row_id)["due_at"] for row_id in (in_hand, waiting)}
    bell = queues.BELLS["inbox"]
    with database.begin() as tx:
        assert work.put_right(tx, inbox, bell.mistimed, NOW, bell.only) == 3
        assert work.put_right(tx, inbox, bell.mistimed, NOW, bell.only) == 0
    assert {row_id: row(database, row_id)["due_at"] for row_id in (in_hand, waiting)} == before
    assert [row(database, row_id)["due_at"] for row_id in (made_ahead, failed_ahead)] == [NOW] * 2
    lost = row(database, claimed_ahead)
    assert (lost["due_at"], lost["token"]) == (NOW + work.LONGEST_LEASE, left.token)
    assert row(database, in_hand)["token"] == held.token


def test_what_rules_put_off_for_weeks_stays_where_it_is(database: Database) -> None:
    """And no attempt waits for a turn at a provider that a wrong clock gave."""
    later = NOW + timedelta(days=20)
    case = new_case("mrc_a")
    waits, turn = new_attempt(case), new_attempt(new_case("mrc_a", "in_2"))
    retry = NOW + timedelta(seconds=1.1 * LONGEST_WAIT_SECONDS)
    with database.begin() as tx:
        add_case(tx, case, later)
        for attempt, at, slot in ((waits, NOW + timedelta(days=1), None), (turn, later, later)):
            add_attempt(tx, attempt)
            change_attempt(tx, attempt.id, due_at=at, slot_at=slot)
        delivery_id = delivery(tx, endpoint_of(tx, "mrc_a", NOW), NOW, "due")
        tx.execute(sa.update(deliveries).values(lane="retry", attempts=9, due_at=retry))
        found = {
            name: work.put_right(tx, bell.table, bell.mistimed, NOW, bell.only) for name, bell in queues.BELLS.items()
        }
        assert {name: count for name, count in found.items() if count} == {"payment_attempts": 1}
        c = payment_attempts.c
        due = {row.id: row.due_at for row in tx.execute(sa.select(c.id, c.due_at))}
        assert due == {waits.id: NOW + timedelta(days=1), turn.id: NOW}
        assert tx.execute(sa.select(deliveries.c.due_at).where(deliveries.c.id == delivery_id)).scalar() == retry
