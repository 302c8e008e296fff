"""`billhook replay`: what billhook received is processed again. (What it sent is sent again by `billhook resend`.)"""

from __future__ import annotations

from typing import Annotated

import typer

from billhook.actions.inbox_replay import MOST_NAMED, Preview, preview_events, preview_job, replay_events
from billhook.cli.arguments import Owner, Time, instant, owner_of
from billhook.cli.inbox import Queue, known_queue
from billhook.cli.output import CommandError, Json, done_by, opened, say, show_one
from billhook.cli.replays import Follow, begun
from billhook.runtime.env import Env
from billhook.store import inbox, queues
from billhook.store.database import Tx
from billhook.store.replays import EVENT_STATES, Replay, add_replay, event_replay
from billhook.store.sources import get_source

BATCH = 1000
"""Dead letters replayed in one transaction."""


def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="EVENT_ID...", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All events of the time, instead of naming them.")] = False,
    source: Annotated[str | None, typer.Option(metavar="ID", help="Only events of this source.")] = None,
    event_types: Annotated[
        list[str] | None, typer.Option("--type", help="The provider's name, invoice.*, or *. Repeatable.")
    ] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help=f"{', '.join(EVENT_STATES)}. Repeatable; left out: all.")
    ] = None,
    since: Time = None,
    until: Time = None,
    dead: Annotated[bool, typer.Option("--dead", help="Everything in the dead letters instead.")] = False,
    queue: Queue = None,
    merchant: Owner = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would change, and change nothing.")] = False,
    follow_it: Follow = None,
    as_json: Json = False,
) -> None:
    """Process again what billhook received: the events named, or by a job those of a time (30 days, if left out). With
    --dead, do all failed work again. What was done already is not done twice."""
    from billhook.actions.limits import check_room
    from billhook.actions.ringing import ring

    asked = every or any(one is not None for one in (source, event_types, states, since, until))
    if [bool(ids), dead, asked].count(True) != 1:
        raise typer.BadParameter("name events, or say which (--source, --type, --state, --since, --all), or use --dead")
    if queue is not None and not dead:
        raise typer.BadParameter("--queue is for --dead")
    if dry_run and dead:
        raise typer.BadParameter("--dry-run is for events: name them, or say which")
    with opened() as env:
        now = env.clock()
        if dead:
            _replay_dead(env, known_queue(queue), merchant, as_json)
        elif ids:
            with env.database.begin() as tx:
                _check_known(tx, ids)
                rings = {} if dry_run else replay_events(tx, ids, by=done_by(), now=now)
            if dry_run:
                _show(preview_events(env.database, ids, now), as_json)
            else:
                ring(env, rings)
                count = len(rings["inbox"])
                say(f"{count} replayed.", as_json=as_json, replayed=count)
        else:
            with env.database.begin() as tx:
                job = _job(tx, env, merchant, source, event_types, states, since, until)
                if not dry_run:
                    check_room(env, tx, job.merchant_id, "replays", env.clock())
                    add_replay(tx, job)
            if dry_run:
                _show(preview_job(env.database, job, now, limit=10**9), as_json)
            else:
                begun(env, job, follow_it, as_json=as_json)


def _check_known(tx: Tx, ids: list[str]) -> None:
    if len(ids) > MOST_NAMED:
        raise CommandError(f"{MOST_NAMED} events at most can be named: say which with --source, --type, --state.")
    known = {row["id"] for row in inbox.events_by_id(tx, ids)}
    for event_id in ids:
        if event_id not in known:
            raise CommandError(f"There is no event {event_id!r}. See `billhook events list`.")


def _job(
    tx: Tx,
    env: Env,
    merchant: str | None,
    source_id: str | None,
    event_types: list[str] | None,
    states: list[str] | None,
    since: str | None,
    until: str | None,
) -> Replay:
    now = env.clock()
    source = None if source_id is None else get_source(tx, source_id, merchant_id=merchant)
    if source_id is not None and source is None:
        raise CommandError(f"There is no source {source_id!r}. See `billhook sources list`.")
    return event_replay(
        owner_of(tx, merchant) if source is None else source.merchant_id,
        source_id=source_id,
        event_types=event_types or None,
        states=states or None,
        since=instant(since, now),
        until=instant(until, now),
        by=done_by(),
        now=now,
    )


def _show(found: Preview, as_json: bool) -> None:
    show_one(found.shown(), as_json=True) if as_json else typer.echo("\n".join(_lines(found)))


def _lines(found: Preview) -> list[str]:
    types = ", ".join(f"{count} {name}" for name, count in found.by_type.most_common(5))
    lines = [f"{found.events} events would be processed again" + (f": {types}." if types else ".")]
    if found.changes_nothing:
        lines.append("They would change nothing.")
    else:
        lines.append(
            f"They would change {found.objects} objects of the book, and make {found.messages} messages to merchants"
            f" ({found.deliveries} deliveries), {found.documents} documents and {found.dunning_cases} dunning steps."
        )
    if found.ignored:
        lines.append(f"{found.ignored} mean nothing to billhook, as before.")
    if found.to_ask:
        lines.append(f"{found.to_ask} only their provider can settle: it would be asked.")
    lines += [f"{event_id} would fail again: {reason}" for event_id, reason in found.failing.items()]
    return lines


def _replay_dead(env: Env, queue: str | None, merchant: str | None, as_json: bool) -> None:
    """Everything that is dead now; what dies again meanwhile is newer than where this began, and stays."""
    from billhook.actions.dead_letters import replay_dead_letters

    count, before = 0, None
    while True:
        with env.database.begin() as tx:
            batch = queues.replayable(tx, merchant_id=merchant, queue=queue, before=before, limit=BATCH)
            if not batch:
                break
            count += sum(map(len, replay_dead_letters(tx, batch, by=done_by(), now=env.clock()).values()))
        before = batch[-1]["id"]
    with env.database.read() as tx:
        stopped = queues.stopped(tx, merchant_id=merchant) if queue in (None, "deliveries") else []
    refused = [{"endpoint_id": one.endpoint_id, "letters": one.letters, "reason": one.reason} for one in stopped]
    lines = [f"{count} replayed.", *(f"{one.letters} stay open. {one.reason}" for one in stopped)]
    say("\n".join(lines), as_json=as_json, replayed=count, refused=refused)
