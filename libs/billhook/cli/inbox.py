"""The commands to look at what came in and what failed, and to do the latter again. Nothing has to ring: the relay
finds what a replay made due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.decoding import decode
from billhook.store import dead_letters, inbox

if TYPE_CHECKING:
    import sqlalchemy as sa

    from billhook.store.database import Tx

Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")]
Queue = Annotated[str | None, typer.Option(help="Only this queue's: `billhook queues list` names them.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]

events = command_group("events")
letters = command_group("dead-letters")


def _plain(row: sa.RowMapping) -> dict[str, Any]:
    """A row of the inbox without the lease's token, and its bytes as text that can be shown."""
    plain = {name: value for name, value in row.items() if name != "token"}
    for name in ("headers", "body"):
        if name in plain:
            plain[name] = bytes(plain[name]).decode(errors="backslashreplace")
    return plain | {"sha256": bytes(plain["sha256"]).hex()}


@events.command("list")
def list_events(
    merchant: Narrow = None,
    state: Annotated[str | None, typer.Option(help="due, processed, ignored or dead.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="The provider's name of it.")] = None,
    source: Annotated[str | None, typer.Option(metavar="ID", help="Only this source's.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List events, the newest first; what is dead with its reason."""
    with opened() as env, env.database.read() as tx:
        found = inbox.list_events(
            tx, merchant_id=merchant, state=state, event_type=event_type, source_id=source, limit=limit
        )
        columns = ("id", "type", "external_id", "state", "attempts", "received_at", "last_error")
        show([_plain(row) for row in found], columns, as_json=as_json, empty="No such events.")


@events.command("show")
def show_event(event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")], as_json: Json = False) -> None:
    """Show an event as it came, and what became of it."""
    with opened() as env, env.database.read() as tx:
        row = inbox.get_event(tx, event_id)
        if row is None:
            raise CommandError(f"There is no event {event_id!r}. See `billhook events list`.")
        plain = _plain(row)
        conflicts = [conflict["id"] for conflict in inbox.list_conflicts(tx, event_id)]
        headers = decode(plain["headers"], dict[str, str])
        show_one({**plain, "headers": headers, "conflicts": conflicts}, as_json=as_json)


@events.command("conflicts")
def list_conflicts(
    event_id: Annotated[str | None, typer.Argument(metavar="EVENT_ID", help="Only those of this event.")] = None,
    merchant: Narrow = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List other bytes that came under a known id."""
    with opened() as env, env.database.read() as tx:
        found = inbox.list_conflicts(tx, event_id, merchant_id=merchant, limit=limit)
        columns = ("id", "inbox_id", "received_at", "sha256")
        show([_plain(row) for row in found], columns, as_json=as_json, empty="No conflicts.")


def known_queue(queue: str | None) -> str | None:
    if queue is not None:
        from billhook.store.queues import QUEUES  # every table there is

        if queue not in QUEUES:
            raise CommandError(f"There is no queue {queue!r}. The queues are: {', '.join(QUEUES)}.")
    return queue


@letters.command("list")
def list_letters(merchant: Narrow = None, queue: Queue = None, limit: Limit = 50, as_json: Json = False) -> None:
    """List the open dead letters, the newest first."""
    with opened() as env, env.database.read() as tx:
        found = dead_letters.list_dead(tx, merchant_id=merchant, queue=known_queue(queue), limit=limit)
        columns = ("id", "queue", "work_id", "attempts", "created_at", "reason")
        show([dict(row) for row in found], columns, as_json=as_json, empty="No dead letters.")


def _find_letters(tx: Tx, ids: list[str]) -> list[Any]:
    found = []
    for dead_letter_id in dict.fromkeys(ids):
        letter = dead_letters.get_dead(tx, dead_letter_id)
        if letter is None:
            raise CommandError(f"There is no dead letter {dead_letter_id!r}. See `billhook dead-letters list`.")
        if letter["resolved_at"] is not None:
            raise CommandError(f"{dead_letter_id} was {letter['resolution']} already, by {letter['resolved_by']}.")
        found.append(letter)
    return found


@letters.command("replay")
def replay_dead(ids: Ids, as_json: Json = False) -> None:
    """Do the work of these letters again; all of them or, if one is unknown, none."""
    from billhook.actions.dead_letters import replay_dead_letters  # which knows all queues

    with opened() as env:
        with env.database.begin() as tx:
            rings = replay_dead_letters(tx, _find_letters(tx, ids), by=done_by(), now=env.clock())
        count = sum(map(len, rings.values()))
        say(f"{count} replayed.", as_json=as_json, replayed=count)


@letters.command("discard")
def discard_dead(ids: Ids, as_json: Json = False) -> None:
    """Close these letters without doing their work; all of them or, if one is unknown, none."""
    from billhook.actions.dead_letters import discard_dead_letters

    with opened() as env:
        with env.database.begin() as tx:
            count = discard_dead_letters(tx, _find_letters(tx, ids), by=done_by(), now=env.clock())
        say(f"{count} discarded.", as_json=as_json, discarded=count)
