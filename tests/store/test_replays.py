"""Replays: what a job asks for, how far it is, and what it finds behind its cursor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from store.databases import NOW
from store.history import delivery, endpoint_of, said, sent

from billhook.errors import Refused
from billhook.store import work
from billhook.store.database import Database, Tx
from billhook.store.deliveries import deliveries
from billhook.store.endpoints import Endpoint
from billhook.store.replay_windows import WINDOW, Window, add_missing, lock_deliveries, look, untouched
from billhook.store.replays import Replay, advance, cancel, create_replay, get_replay, list_replays, replays
from billhook.store.schema import id_at

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def ask(tx: Tx, **asked: Any) -> Replay:
    return create_replay(tx, "mrc_a", **{"kind": "replay", "by": "key_1", "now": NOW, **asked})


def walk(tx: Tx, replay: Replay, *reachable: Endpoint, room: int = 10_000) -> Window:
    return look(tx, replay, {one.id: one for one in reachable}, end=replay.until, room=room)


def ids(window: Window) -> list[str]:
    return [row["id"] for row in window.rows]


def now_of(tx: Tx, replay: Replay) -> Replay:
    found = get_replay(tx, replay.id)
    assert found is not None
    return found


def test_a_job_that_says_little_takes_the_failed_ones_of_a_month(database: Database) -> None:
    with database.begin() as tx:
        replay = ask(tx)
        assert now_of(tx, replay) == replay
    assert (replay.states, replay.event_types, replay.endpoint_id) == (["dead", "held"], None, None)
    assert (replay.since, replay.until) == (NOW - 30 * DAY, NOW)
    assert (replay.phase, replay.progress, replay.matched, replay.created_by) == ("running", 0.0, 0, "key_1")


def test_a_range_ends_now_at_the_latest(database: Database) -> None:
    with database.begin() as tx:
        assert ask(tx, since=NOW - DAY, until=NOW + DAY).until == NOW
        assert ask(tx, since=NOW.replace(year=1)).since.year == 1970


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"kind": "backfill"}, "endpoint_missing"),
        ({"since": NOW}, "range_empty"),
        ({"since": NOW - HOUR, "until": NOW - DAY}, "range_empty"),
        ({"states": ["due"]}, "state_unknown"),
        ({"event_types": ["inv*"]}, "event_type_unknown"),
        ({"event_types": ["invoice.paid", "invoice.piad"]}, "event_type_unknown"),
        ({"event_types": []}, "event_types_invalid"),
    ],
)
def test_what_cannot_work_is_refused(database: Database, asked: Mapping[str, Any], code: str) -> None:
    with database.begin() as tx, pytest.raises(Refused) as refused:
        ask(tx, **asked)
    assert refused.value.code == code


def test_a_backfill_takes_no_states_and_nothing_goes_to_a_disabled_endpoint(database: Database) -> None:
    with database.begin() as tx:
        off = endpoint_of(tx, "mrc_a", NOW, disabled_at=NOW)
        with pytest.raises(Refused, match="enable it first"):
            ask(tx, endpoint=off)
        with pytest.raises(Refused, match="takes no states"):
            ask(tx, kind="backfill", endpoint=endpoint_of(tx, "mrc_a", NOW), states=["dead"])


def test_jobs_are_listed_newest_first_and_by_merchant(database: Database) -> None:
    with database.begin() as tx:
        first, second = ask(tx), ask(tx)
        other = create_replay(tx, "mrc_b", kind="replay", by="key_2", now=NOW)
    with database.read() as tx:
        assert list_replays(tx) == [other, second, first]
        assert list_replays(tx, merchant_id="mrc_a", limit=1) == [second]
        assert list_replays(tx, merchant_id="mrc_a", before=second.id) == [first]
        assert get_replay(tx, other.id, merchant_id="mrc_a") is None


def test_progress_is_the_time_behind_the_cursor(database: Database) -> None:
    with database.begin() as tx:
        replay = ask(tx, since=NOW - 4 * HOUR)
        advance(tx, replay.id, id_at("dlv", NOW - 3 * HOUR), 7)
        assert (now_of(tx, replay).progress, now_of(tx, replay).matched) == (0.25, 7)
        advance(tx, replay.id, id_at("dlv", NOW - HOUR), 3)
        assert (now_of(tx, replay).progress, now_of(tx, replay).matched) == (0.75, 10)
        work.finish(tx, replays, [replay.id], "done", NOW)
        assert now_of(tx, replay).progress == 1.0


def test_a_step_that_got_on_wipes_out_the_failures_before_it(database: Database) -> None:
    with database.begin() as tx:
        replay = ask(tx)
        for _ in range(5):
            work.claim(tx, replays, ids=[replay.id], limit=1, max_attempts=9, now=NOW, lease=timedelta())
        advance(tx, replay.id, replay.cursor, 0)
        work.defer_claimed(tx, replays, [(replay.id, NOW, "")], counted=False)
        assert now_of(tx, replay).attempts == 0


def test_a_job_is_canceled_once_and_whoever_had_it_holds_it_no_longer(database: Database) -> None:
    with database.begin() as tx:
        replay = ask(tx)
        claim = work.claim(tx, replays, ids=None, limit=1, max_attempts=9, now=NOW, lease=HOUR)
        assert cancel(tx, replay.id, NOW)
        assert not cancel(tx, replay.id, NOW)
        assert work.lock_claimed(tx, replays, {replay.id: claim.token}) == set()
        assert (now_of(tx, replay).phase, now_of(tx, replay).finished_at) == ("canceled", NOW)


def test_a_replay_finds_what_it_asks_for_in_its_range_and_nothing_else(database: Database) -> None:
    with database.begin() as tx:
        endpoint, other = endpoint_of(tx, "mrc_a", NOW), endpoint_of(tx, "mrc_a", NOW)
        deaf, elsewhere = endpoint_of(tx, "mrc_a", NOW), endpoint_of(tx, "mrc_b", NOW)
        delivery(tx, endpoint, NOW - DAY - timedelta(milliseconds=1))  # too old
        first = delivery(tx, endpoint, NOW - DAY)
        held = delivery(tx, other, NOW - 23 * HOUR, "held", "invoice.voided")
        delivery(tx, endpoint, NOW - 22 * HOUR, "delivered")
        delivery(tx, endpoint, NOW - 22 * HOUR, "due")
        delivery(tx, endpoint, NOW - 22 * HOUR, "canceled")
        delivery(tx, endpoint, NOW - 21 * HOUR, event_type="payment.failed")
        delivery(tx, deaf, NOW - 21 * HOUR)
        delivery(tx, elsewhere, NOW - 21 * HOUR)
        sent(tx, endpoint, said(tx, "mrc_a", NOW - 21 * HOUR, pruned_at=NOW), NOW - 21 * HOUR)
        delivery(tx, endpoint, NOW - 20 * HOUR)  # too new
        asked = {"since": NOW - DAY, "until": NOW - 20 * HOUR, "event_types": ["invoice.*"]}

        window = walk(tx, ask(tx, **asked), endpoint, other)
        assert (ids(window), window.last, window.cut) == ([first, held], True, False)
        assert ids(walk(tx, ask(tx, **asked, endpoint=endpoint), endpoint, other)) == [first]
        assert ids(walk(tx, ask(tx, **asked, states=["held"]), endpoint, other)) == [held]


def test_a_window_is_bounded_by_what_is_looked_at_and_by_the_room(database: Database) -> None:
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW)
        early = [delivery(tx, endpoint, NOW - 2 * HOUR + timedelta(seconds=n), "delivered") for n in range(WINDOW - 1)]
        late = [delivery(tx, endpoint, NOW - HOUR + timedelta(seconds=n)) for n in range(4)]
        replay = ask(tx)
        window = walk(tx, replay, endpoint)
        assert (ids(window), window.cursor, window.last, window.cut) == (late[:1], late[0], False, False)

        advance(tx, replay.id, window.cursor, 1)
        window = walk(tx, now_of(tx, replay), endpoint, room=2)
        assert (ids(window), window.cursor, window.last, window.cut) == (late[1:3], late[2], False, True)

        advance(tx, replay.id, window.cursor, 2)
        window = walk(tx, now_of(tx, replay), endpoint, room=2)
        assert (ids(window), window.last, window.cut) == (late[3:], True, False)
        assert window.cursor >= id_at("dlv", NOW)
        assert len(early) == WINDOW - 1


def test_a_backfill_finds_the_messages_its_endpoint_never_had(database: Database) -> None:
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW, "invoice.*", "ping", "endpoint.*", ordering="customer")
        other = endpoint_of(tx, "mrc_a", NOW)
        missing = said(tx, "mrc_a", NOW - HOUR, customer="cus_1", subscription="sub_1")
        sent(tx, other, missing, NOW - HOUR, "delivered")
        sent(tx, endpoint, said(tx, "mrc_a", NOW - HOUR), NOW - HOUR, "delivered")
        voided = said(tx, "mrc_a", NOW - HOUR / 2, "invoice.voided")
        for event_type in ("payment.failed", "ping", "endpoint.disabled"):
            said(tx, "mrc_a", NOW - HOUR, event_type)
        said(tx, "mrc_a", NOW - HOUR, pruned_at=NOW)
        said(tx, "mrc_a", NOW - 31 * DAY)
        said(tx, "mrc_b", NOW - HOUR)

        backfill = ask(tx, kind="backfill", endpoint=endpoint)
        assert backfill.states is None
        window = walk(tx, backfill, endpoint, other)
        assert (ids(window), window.last) == ([missing, voided], True)
        narrow = ask(tx, kind="backfill", endpoint=endpoint, event_types=["invoice.voided"])
        assert ids(walk(tx, narrow, endpoint)) == [voided]

        new = add_missing(tx, endpoint, window.rows, NOW)
        rows = tx.execute(sa.select(deliveries).where(deliveries.c.id.in_(new)).order_by(deliveries.c.id)).mappings()
        made = [(row["message_id"], row["state"], row["lane"], row["subject"]) for row in rows]
        assert made == [(missing, "due", "replay", "cus_1"), (voided, "due", "replay", None)]
        assert add_missing(tx, endpoint, window.rows, NOW) == [], "it has them now"
        assert ids(walk(tx, backfill, endpoint)) == []


def test_what_changed_since_it_was_found_is_left_alone(database: Database) -> None:
    with database.begin() as tx:
        endpoint = endpoint_of(tx, "mrc_a", NOW)
        dead, held, due = (delivery(tx, endpoint, NOW - HOUR, state) for state in ("dead", "held", "due"))
        assert lock_deliveries(tx, [due, held, dead], ["dead", "held"]) == sorted([dead, held])
        assert lock_deliveries(tx, [due, held, dead], ["held"]) == [held]


def test_the_untouched_are_counted_for_whom_the_job_is(database: Database) -> None:
    with database.begin() as tx:
        endpoint, other = endpoint_of(tx, "mrc_a", NOW), endpoint_of(tx, "mrc_a", NOW)
        for whose, fields in (
            (endpoint, {"lane": "replay"}),
            (endpoint, {"lane": "replay", "due_at": NOW + HOUR}),  # deferred, but not tried
            (other, {"lane": "replay"}),
            (other, {"lane": "replay", "attempts": 1}),
            (endpoint, {"lane": "fresh"}),
            (endpoint_of(tx, "mrc_b", NOW), {"lane": "replay"}),
        ):
            message = said(tx, whose.merchant_id, NOW)
            sent(tx, whose, message, NOW, "due", **fields)
        assert untouched(tx, ask(tx)) == 3
        assert untouched(tx, ask(tx, endpoint=endpoint)) == 2
