"""The operator's commands for replays: `billhook replays …`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from billhook.actions.sources import ring
from billhook.cli.arguments import Owner, Time, instant, owner_of
from billhook.cli.output import CommandError, Json, Narrow, command_group, done_by, opened, show, show_one
from billhook.runtime.env import Env
from billhook.store import replays
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint, get_endpoint
from billhook.store.replays import BACKFILL, STATES, Replay
from billhook.store.work import DEAD, DUE

commands = command_group("replays", "Many deliveries again, or for an endpoint that is new, as a job.")

LOOK_SECONDS = 0.5

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


@commands.command("start")
def start(
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="Only what goes to this one.")] = None,
    events: Annotated[list[str] | None, typer.Option("--event", help="A name, invoice.*, or *. Repeatable.")] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help=f"{', '.join(STATES)}. Repeatable; left out: dead and held.")
    ] = None,
    since: Time = None,
    until: Time = None,
    merchant: Owner = None,
    backfill: Annotated[bool, typer.Option("--backfill", help="Send the endpoint what it never had, instead.")] = False,
    follow: Annotated[
        bool | None, typer.Option("--follow/--no-follow", help="Stay until it is over; the default in a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send again what was created between --since (30 days before, if left out) and --until (now)."""
    with opened() as env:
        now = env.clock()
        with env.database.begin() as tx:
            found = None if endpoint is None else _endpoint(tx, endpoint, merchant)
            replay = replays.create_replay(
                tx,
                owner_of(tx, merchant) if found is None else found.merchant_id,
                kind=BACKFILL if backfill else "replay",
                endpoint=found,
                event_types=events or None,
                states=states or None,
                since=instant(since, now),
                until=instant(until, now),
                by=done_by(),
                now=now,
            )
        ring(env, {replays.replays.name: [replay.id]})
        if as_json:
            show_one(replay.shown(), as_json=True)
            return
        typer.echo(f"{replay.id} is started. It goes on by itself: `billhook replays follow {replay.id}`.")
        if sys.stdout.isatty() if follow is None else follow:
            _follow(env, replay.id)


@commands.command("list")
def list_replays(
    merchant: Narrow = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List replays, the newest first."""
    with opened() as env, env.database.read() as tx:
        found = [replay.shown() for replay in replays.list_replays(tx, merchant_id=merchant, limit=limit)]
        columns = ("id", "kind", "endpoint_id", "since", "until", "state", "progress", "matched", "note")
        show(found, columns, as_json=as_json, empty="No replays yet. Start one: `billhook replays start`.")


@commands.command("show")
def show_replay(replay_id: ReplayId, as_json: Json = False) -> None:
    """Show one as it is now."""
    with opened() as env, env.database.read() as tx:
        show_one(_find(tx, replay_id).shown(), as_json=as_json)


@commands.command("follow")
def follow_replay(replay_id: ReplayId) -> None:
    """Watch one until it is over. To leave does not stop it."""
    with opened() as env:
        _follow(env, replay_id)


@commands.command("cancel")
def cancel_replay(replay_id: ReplayId) -> None:
    """Put nothing more back. What was put back already, at most the last 500, is still sent."""
    with opened() as env:
        with env.database.begin() as tx:
            replay = _find(tx, replay_id)
            if not replays.cancel(tx, replay_id, env.clock()):
                raise CommandError(f"{replay_id} is over: it is {replay.phase}.")
        typer.echo(f"{replay_id} is canceled; {replay.matched} had been put back.")


def _follow(env: Env, replay_id: str) -> None:
    console = Console(file=sys.stdout)
    last = _in_lines(env, replay_id) if not console.is_terminal else _as_bar(env, replay_id, console)
    if last.state == DEAD:
        reason = str(last.last_error).partition("\n")[0]
        raise CommandError(
            f"{replay_id} failed: {reason}. To let it go on, replay its letter (`billhook dead-letters list"
            " --queue replays`)."
        )
    typer.echo(f"{replay_id} is {last.phase}: {last.matched} put back.")


def _looks(env: Env, replay_id: str) -> Iterator[Replay]:
    """Yields the replay's state, again and again until it is over."""
    while True:
        with env.database.read() as tx:
            replay = _find(tx, replay_id)
        yield replay
        if replay.state != DUE:
            return
        time.sleep(LOOK_SECONDS)


def _in_lines(env: Env, replay_id: str) -> Replay:
    """For a log: a line each time there is progress."""
    said = None
    for replay in _looks(env, replay_id):
        line = _line(replay)
        if replay.state == DUE and line != said:
            typer.echo(line)
            said = line
    return replay


def _as_bar(env: Env, replay_id: str, console: Console) -> Replay:
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        for replay in _looks(env, replay_id):
            progress.update(task, completed=replay.progress, description=_described(replay))
    return replay


def _line(replay: Replay) -> str:
    return f"{replay.progress:4.0%}  {_described(replay)}"


def _described(replay: Replay) -> str:
    return f"{replay.matched} put back" + (f", {replay.last_error}" if replay.last_error else "")
