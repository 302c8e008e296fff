"""What came in is processed again, by a job or to see what that would change; and what was done is not done twice."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from consumers.lifecycle import BEGAN, event, invoice, life
from consumers.test_bookkeeper import the_book
from consumers.world import Silence, World, run_until_quiet
from store.databases import NOW
from store.history import made

from billhook.actions.inbox_replay import begin_replay, preview_events, preview_job
from billhook.queue.steps import Steps
from billhook.store.book import TABLES
from billhook.store.inbox import inbox
from billhook.store.replay_windows import untouched
from billhook.store.replays import Replay, cancel, event_replay, get_replay
from billhook.store.schema import instant_of, new_id
from services.relay.replaying import EVENTS_BESIDE_TRAFFIC, Replaying

EVERYTHING = ("messages", "deliveries", "documents", "dunning_cases", "own_invoices", "inbox")


def lived(world: World) -> None:
    """A world in which much has happened. Its clock goes with the ids, which say when things came."""
    world.endpoint("https://a.test/hook")
    for told in life():
        world.arrive(world.stripe_source, told)
    world.arrive(world.stripe_source, event(98, "invoice.paid", {"object": "invoice"}, BEGAN))
    world.post()
    world.clock.at = instant_of(new_id("evt")) + timedelta(minutes=10)


def asked(world: World, **which: Any) -> Replay:
    return event_replay(world.merchant_id, by="ada", now=world.clock(), **which)


def begin(world: World, **which: Any) -> str:
    job = asked(world, until=world.clock() - timedelta(minutes=1), **which)
    with world.database.begin() as tx:
        begin_replay(tx, job)
    return job.id


def steps(world: World) -> Steps[Any, Any]:
    return Steps(Replaying(world.database, world.clock), world.database, Silence(), world.metrics, world.clock)


def job_of(world: World, replay_id: str) -> Replay:
    with world.database.read() as tx:
        job = get_replay(tx, replay_id)
    assert job is not None
    return job


def walk(world: World, replay_id: str) -> Replay:
    for _ in range(50):
        run_until_quiet(steps(world))
        world.post()
        if job_of(world, replay_id).phase != "running":
            break
        world.clock.move(seconds=1)
    return job_of(world, replay_id)


def counts(world: World) -> dict[str, int]:
    return {name: len(world.rows(name, "id")) for name in EVERYTHING}


def test_replaying_everything_by_a_job_changes_nothing(world: World) -> None:
    lived(world)
    book, before = the_book(world), counts(world)
    tried = preview_job(world.database, asked(world), world.clock(), limit=10**6)
    assert (tried.events, tried.changes_nothing, tried.more) == (before["inbox"], True, False)
    assert len(tried.failing) == 1
    assert tried.ignored == 1
    job = walk(world, begin(world))
    assert (job.phase, job.matched, job.progress) == ("done", before["inbox"], 1.0)
    assert (the_book(world), counts(world)) == (book, before)


def test_a_dry_run_says_what_would_change_and_changes_nothing(world: World) -> None:
    lived(world)
    with world.database.begin() as tx:
        tx.execute(sa.delete(TABLES["subscription"]))
        tx.execute(sa.update(TABLES["invoice"]).values(version_at=world.clock() - timedelta(days=9000), status="draft"))
    book, before = the_book(world), counts(world)
    found = preview_job(world.database, asked(world), world.clock(), limit=10**6)
    assert (found.objects, found.messages, found.documents) == (3, 0, 0)
    assert (the_book(world), counts(world)) == (book, before)
    walk(world, begin(world))
    assert [row[0] for row in world.rows("subscriptions", "status")] == ["canceled"]
    assert {row[0] for row in world.rows("invoices", "status")} == {"paid", "void"}

    some = preview_job(world.database, asked(world), world.clock(), limit=3)
    assert (some.events, some.more) == (3, True)
    fresh = world.arrive(world.stripe_source, event(99, "invoice.paid", invoice("in_9", "open"), BEGAN))
    found = preview_events(world.database, [fresh], world.clock())
    assert (found.events, found.messages, found.deliveries) == (1, 1, 1)
    assert ("evt_99", "due") in world.rows("inbox", "external_id", "state")


def test_only_what_is_asked_for_is_put_back(world: World) -> None:
    lived(world)
    [dead] = [row[0] for row in world.rows("inbox", "id", "state") if row[1] == "dead"]
    mended = json.dumps(event(98, "invoice.paid", invoice("in_1", "paid", paid=1190), BEGAN)).encode()
    with world.database.begin() as tx:  # its translation is mended meanwhile
        tx.execute(sa.update(inbox).where(inbox.c.id == dead).values(body=mended))
    job = walk(world, begin(world, states=["dead"], source_id=world.stripe_source))
    assert job.matched == 1
    assert world.state_of("inbox", dead)[0] == "processed"
    assert len([row for row in world.rows("dead_letters", "resolution") if row[0] == "replayed"]) == 1
    assert walk(world, begin(world, event_types=["customer.subscription.*"])).matched == sum(
        row[0].startswith("customer.subscription.") for row in world.rows("inbox", "type")
    )
    assert walk(world, begin(world, since=world.clock() - timedelta(minutes=2))).matched == 0


def test_a_job_gives_way_to_what_comes_in_and_can_be_canceled(world: World) -> None:
    row = {"merchant_id": world.merchant_id, "source_id": world.own_source, "account": "", "type": "x.y"}
    row |= {"headers": b"{}", "body": b"{}", "sha256": b"", "received_at": NOW, "due_at": NOW, "state": "ignored"}
    world.clock.at = NOW
    ids = [made("evt", NOW - timedelta(minutes=1)) for _ in range(100)] + [made("evt", NOW)]
    with world.database.begin() as tx:
        tx.execute(inbox.insert(), [{**row, "id": one, "external_id": one} for one in ids])
        begin_replay(tx, job := asked(world, until=NOW - timedelta(seconds=10)))
    steps(world).run(None)
    world.clock.move(seconds=0.6)
    steps(world).run(None)
    assert (job_of(world, job.id).matched, job_of(world, job.id).phase) == (EVENTS_BESIDE_TRAFFIC, "running")
    with world.database.begin() as tx:
        assert untouched(tx, job_of(world, job.id)) == EVENTS_BESIDE_TRAFFIC
        assert cancel(tx, job.id, world.clock())
    run_until_quiet(steps(world))
    assert (job_of(world, job.id).matched, job_of(world, job.id).phase) == (EVENTS_BESIDE_TRAFFIC, "canceled")

    world.clock.move(seconds=2)  # nothing comes in any more
    rest = asked(world, until=NOW - timedelta(seconds=10))
    with world.database.begin() as tx:
        begin_replay(tx, rest)
    run_until_quiet(steps(world))
    assert (job_of(world, rest.id).matched, job_of(world, rest.id).phase) == (100 - EVENTS_BESIDE_TRAFFIC, "done")
