"""The operator's commands for jobs: `billhook resend` begins one, `billhook replays …` looks at all of them, those that
`billhook replay` began (`event_replay.py`) among them."""

from __future__ import annotations

from typing import Annotated

import typer

from billhook.cli.arguments import Owner, Time, instant, owner_of
from billhook.cli.following import follow, wants_to_follow
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.runtime.env import Env
from billhook.store import replays
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint, get_endpoint
from billhook.store.replays import BACKFILL, EVENTS, STATES, Replay

commands = command_group("replays")

Follow = Annotated[
    bool | None, typer.Option("--follow/--no-follow", help="Stay until it is over; the default in a terminal.")
]
ReplayId = Annotated[str, typer.Argument(metavar="REPLAY_ID")]


def _endpoint(tx: Tx, endpoint_id: str, merchant_id: str | None) -> Endpoint:
    endpoint = get_endpoint(tx, endpoint_id, merchant_id=merchant_id)
    if endpoint is None:
        raise CommandError(f"There is no endpoint {endpoint_id!r}. See `billhook endpoints list`.")
    return endpoint


def _find(tx: Tx, replay_id: str) -> Replay:
    replay = replays.get_replay(tx, replay_id)
    if replay is None:
        raise CommandError(f"There is no replay {replay_id!r}. See `billhook replays list`.")
    return replay


def resend(
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="Only what goes to this one.")] = None,
    events: Annotated[list[str] | None, typer.Option("--event", help="A name, invoice.*, or *. Repeatable.")] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help=f"{', '.join(STATES)}. Repeatable; left out: dead and held.")
    ] = None,
    since: Time = None,
    until: Time = None,
    merchant: Owner = None,
    backfill: Annotated[bool, typer.Option("--backfill", help="Send the endpoint what it never had, instead.")] = False,
    follow_it: Follow = None,
    as_json: Json = False,
) -> None:
    """Send merchants again what billhook sent them between --since (30 days before, if left out) and --until (now)."""
    from billhook.actions.limits import check_room

    with opened() as env:
        now = env.clock()
        with env.database.begin() as tx:
            found = None if endpoint is None else _endpoint(tx, endpoint, merchant)
            owner = owner_of(tx, merchant) if found is None else found.merchant_id
            check_room(env, tx, owner, "replays", env.clock())
            replay = replays.create_replay(
                tx,
                owner,
                kind=BACKFILL if backfill else "replay",
                endpoint=found,
                event_types=events or None,
                states=states or None,
                since=instant(since, now),
                until=instant(until, now),
                by=done_by(),
                now=now,
            )
        begun(env, replay, follow_it, as_json=as_json)


@commands.command("list")
def list_replays(
    merchant: Narrow = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List the jobs, the newest first."""
    with opened() as env, env.database.read() as tx:
        found = [replay.shown() for replay in replays.list_replays(tx, merchant_id=merchant, limit=limit)]
        columns = ("id", "kind", "endpoint_id", "source_id", "since", "until", "state", "progress", "matched", "note")
        show(found, columns, as_json=as_json, empty="No jobs yet. Begin one: `billhook resend`, or `billhook replay`.")


@commands.command("show")
def show_replay(replay_id: ReplayId, as_json: Json = False) -> None:
    """Show one as it is now."""
    with opened() as env, env.database.read() as tx:
        show_one(_find(tx, replay_id).shown(), as_json=as_json)


@commands.command("follow")
def follow_replay(replay_id: ReplayId, as_json: Json = False) -> None:
    """Watch one until it is over. To leave does not stop it."""
    with opened() as env:
        _follow(env, replay_id, as_json=as_json)


@commands.command("cancel")
def cancel_replay(replay_id: ReplayId, as_json: Json = False) -> None:
    """Put nothing more back. What was put back before, at most 500 deliveries or 2000 events, is still done."""
    with opened() as env:
        with env.database.begin() as tx:
            replay = _find(tx, replay_id)
            if not replays.cancel(tx, replay_id, env.clock()):
                raise CommandError(f"{replay_id} is over: it is {replay.phase}.")
        said = f"{replay_id} is canceled; {replay.matched} had been put back."
        say(said, as_json=as_json, id=replay_id, state="canceled", matched=replay.matched)


def begun(env: Env, replay: Replay, follow_it: bool | None, *, as_json: bool) -> None:
    """Ring for a job that is begun, say so, and watch it where that is wanted."""
    from billhook.actions.ringing import ring

    ring(env, {replays.replays.name: [replay.id]})
    if as_json:
        show_one(replay.shown(), as_json=True)
        return
    typer.echo(f"{replay.id} is started. It goes on by itself: `billhook replays follow {replay.id}`.")
    if wants_to_follow(follow_it):
        _follow(env, replay.id)


def _follow(env: Env, replay_id: str, *, as_json: bool = False) -> None:
    def find() -> Replay:
        with env.database.read() as tx:
            return _find(tx, replay_id)

    last = follow(find, _described, "replays", quiet=as_json)
    if as_json:
        show_one(last.shown(), as_json=True)
        return
    typer.echo(f"{replay_id} is {last.phase}: {last.matched} put back.")


def _described(replay: Replay) -> str:
    what = "events put back" if replay.kind == EVENTS else "put back"
    return f"{replay.matched} {what}" + (f", {replay.last_error}" if replay.last_error else "")
