"""What becomes of an event at the door: new, known, known with other bytes."""

from __future__ import annotations

import random
import threading
from datetime import timedelta

from store.databases import NOW
from store.events import accept, arrival, row

from billhook.store import dead_letters, inbox, work
from billhook.store.database import Database
from billhook.store.dead_letters import DeadLetter
from billhook.store.inbox import Arrival, Receipt, get_event, list_conflicts, list_events

LATER = NOW + timedelta(minutes=5)
LEASE = timedelta(minutes=1)


def outcomes(receipts: list[Receipt]) -> list[str]:
    return [receipt.outcome for receipt in receipts]


def set_aside(database: Database, event_id: str, at_minutes: int) -> None:
    """As after a failed attempt: due again some minutes later."""
    with database.begin() as tx:
        work.defer_claimed(tx, inbox.inbox, [(event_id, NOW + timedelta(minutes=at_minutes), "no luck")])


def finish(database: Database, event_id: str) -> None:
    with database.begin() as tx:
        work.finish(tx, inbox.inbox, [event_id], "processed", NOW)


def bury(database: Database, event_id: str) -> None:
    with database.begin() as tx:
        work.give_up(tx, inbox.inbox, [(event_id, "broken")], NOW)
        dead_letters.bury(tx, "inbox", [DeadLetter("mrc_a", event_id, "broken", 11)], NOW)


def test_nothing_that_arrives_is_nothing_stored(database: Database) -> None:
    assert accept(database) == []


def test_a_new_event_is_kept_byte_for_byte_and_is_due(database: Database) -> None:
    body = bytes(range(256))
    event = arrival("e1", body)
    assert accept(database, event) == [Receipt(event.id, "accepted", to_do=True)]
    kept = row(database, event.id)
    assert bytes(kept["body"]) == body
    assert bytes(kept["headers"]) == event.headers
    assert bytes(kept["sha256"]) == event.sha256
    assert (kept["merchant_id"], kept["source_id"], kept["account"], kept["external_id"]) == (
        ("mrc_a", "src_a", "", "e1")
    )
    assert (kept["state"], kept["attempts"], kept["due_at"], kept["received_at"]) == ("due", 0, NOW, NOW)
    assert (kept["token"], kept["last_error"], kept["finished_at"]) == (None, None, None)


def test_a_known_event_is_answered_with_the_id_it_has(database: Database) -> None:
    [first] = accept(database, arrival("e1"))
    assert accept(database, arrival("e1"), now=LATER) == [Receipt(first.id, "duplicate", to_do=True)]
    with database.read() as tx:
        assert len(list_events(tx)) == 1
    assert row(database, first.id)["due_at"] == NOW


def test_the_same_event_of_another_source_or_account_is_another_event(database: Database) -> None:
    there = arrival("e1", source="src_b")
    connected = Arrival(
        "evt_connected", *("mrc_a", "src_a", "acct_1", "e1", "x", b"", b"{}", arrival("").sha256), received_at=NOW
    )
    assert outcomes(accept(database, arrival("e1"), there, connected)) == ["accepted"] * 3


def test_an_event_twice_in_one_batch_is_stored_once(database: Database) -> None:
    first, second = arrival("e1"), arrival("e1")
    assert accept(database, first, second) == [
        Receipt(first.id, "accepted", to_do=True),
        Receipt(first.id, "duplicate", to_do=True),
    ]


def test_receipts_come_in_the_order_of_the_arrivals(database: Database) -> None:
    [known, processed] = accept(database, arrival("known"), arrival("processed"))
    finish(database, processed.id)
    batch = [arrival("z"), arrival("known"), arrival("a"), arrival("processed"), arrival("known", b"other")]
    assert accept(database, *batch) == [
        Receipt(batch[0].id, "accepted", to_do=True),
        Receipt(known.id, "duplicate", to_do=True),
        Receipt(batch[2].id, "accepted", to_do=True),
        Receipt(processed.id, "duplicate", to_do=False),
        Receipt(known.id, "conflict", to_do=True),
    ]


def test_sending_again_what_waits_for_a_retry_makes_it_due_at_once(database: Database) -> None:
    [event] = accept(database, arrival("e1"))
    set_aside(database, event.id, at_minutes=60)
    accept(database, arrival("e1"), now=LATER)
    assert row(database, event.id)["due_at"] == LATER


def test_sending_again_what_is_being_worked_on_leaves_the_lease_alone(database: Database) -> None:
    [event] = accept(database, arrival("e1"))
    with database.begin() as tx:
        claim = work.claim(tx, inbox.inbox, ids=None, limit=1, max_attempts=9, now=NOW, lease=LEASE)
    accept(database, arrival("e1"), now=NOW + LEASE / 2)
    held = row(database, event.id)
    assert (held["due_at"], held["token"]) == (NOW + LEASE, claim.token)


def test_sending_again_what_is_processed_changes_nothing(database: Database) -> None:
    [event] = accept(database, arrival("e1"))
    finish(database, event.id)
    before = row(database, event.id)
    assert accept(database, arrival("e1"), now=LATER) == [Receipt(event.id, "duplicate", to_do=False)]
    assert row(database, event.id) == before


def test_sending_again_what_is_dead_revives_it_and_closes_its_letter(database: Database) -> None:
    [event] = accept(database, arrival("e1"))
    bury(database, event.id)
    assert accept(database, arrival("e1"), now=LATER) == [Receipt(event.id, "duplicate", to_do=True)]
    revived = row(database, event.id)
    assert (revived["state"], revived["attempts"], revived["due_at"], revived["finished_at"]) == ("due", 0, LATER, None)
    with database.read() as tx:
        assert dead_letters.list_dead(tx) == []
        [letter] = tx.execute(dead_letters.dead_letters.select()).mappings()
    assert (letter["resolution"], letter["resolved_by"], letter["resolved_at"]) == ("redelivered", "sender", LATER)


def test_other_bytes_under_a_known_id_are_kept_beside_the_first_and_once(database: Database) -> None:
    [first] = accept(database, arrival("e1", b'{"a": 1}'))
    for _ in range(2):
        assert outcomes(accept(database, arrival("e1", b'{"a": 2}'))) == ["conflict"]
    assert outcomes(accept(database, arrival("e1", b'{"a": 3}'), arrival("e1", b'{"a": 3}'))) == ["conflict"] * 2
    assert bytes(row(database, first.id)["body"]) == b'{"a": 1}'
    with database.read() as tx:
        conflicts = list_conflicts(tx, first.id)
    assert [bytes(conflict["body"]) for conflict in conflicts] == [b'{"a": 3}', b'{"a": 2}']
    assert {conflict["merchant_id"] for conflict in conflicts} == {"mrc_a"}


def test_a_new_event_in_conflict_with_its_neighbour_is_kept_too(database: Database) -> None:
    batch = [arrival("e1", b"1"), arrival("e1", b"2")]
    assert outcomes(accept(database, *batch)) == ["accepted", "conflict"]
    with database.read() as tx:
        assert len(list_conflicts(tx, batch[0].id)) == 1


def test_doors_that_take_the_same_events_at_once_keep_each_once(database: Database) -> None:
    # Each door meets them in an order of its own, and two of them carry other bytes under the same ids.
    failures: list[BaseException] = []
    accepted: list[str] = []
    start = threading.Barrier(4)

    def door(number: int) -> None:
        rng = random.Random(number)
        try:
            for storm in range(10):
                batch = [arrival(f"s{storm}-{n}", b"12"[number % 2 :][:1]) for n in range(60)]
                rng.shuffle(batch)
                start.wait(30)
                accepted.extend(r.id for r in accept(database, *batch) if r.outcome == "accepted")
        except BaseException as error:
            failures.append(error)
            start.abort()

    doors = [threading.Thread(target=door, args=(number,)) for number in range(4)]
    for thread in doors:
        thread.start()
    for thread in doors:
        thread.join()
    assert failures == []
    assert len(set(accepted)) == len(accepted) == 600
    with database.read() as tx:
        assert len(list_events(tx, limit=1000)) == 600
        assert {len(list_conflicts(tx, event_id)) for event_id in accepted} == {1}


def test_events_are_listed_newest_first_in_pages_and_by_what_they_are(database: Database) -> None:
    receipts = accept(database, *(arrival(f"e{n}") for n in range(5)), arrival("theirs", merchant="mrc_b"))
    newest_first = sorted((r.id for r in receipts), reverse=True)
    finish(database, receipts[2].id)
    with database.read() as tx:
        page = list_events(tx, limit=4)
        rest = list_events(tx, before=page[-1]["id"])
        assert [event["id"] for event in [*page, *rest]] == newest_first
        assert "body" not in page[0]
        assert [event["external_id"] for event in list_events(tx, merchant_id="mrc_b")] == ["theirs"]
        assert [event["id"] for event in list_events(tx, state="processed")] == [receipts[2].id]
        assert list_events(tx, event_type="no.such") == []
        assert get_event(tx, receipts[0].id, merchant_id="mrc_b") is None
        assert get_event(tx, "evt_none") is None
