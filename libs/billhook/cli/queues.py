"""What waits, and stopping it: `billhook queues …`."""

from __future__ import annotations

from typing import Annotated

import typer

from billhook.actions.diagnosis import queues_shown
from billhook.cli.groups import command_group
from billhook.cli.inbox import known_queue
from billhook.cli.output import CommandError, Json, done_by, opened, say, show
from billhook.store import queue_pauses
from billhook.store.operator_actions import note_action
from billhook.store.queues import QUEUES

commands = command_group("queues")

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help=f"One of: {', '.join(QUEUES)}.")]


@commands.command("list")
def list_queues(as_json: Json = False) -> None:
    """List the queues: what is due, in hand and still to come, and since when the oldest has been due."""
    with opened() as env, env.database.read() as tx:
        found = [
            {
                "queue": queue.name,
                "state": queue.state,
                "due": queue.backlog.ready,
                "in_hand": queue.backlog.running,
                "later": queue.backlog.scheduled,
                "lost_leases": queue.backlog.expired_leases,
                "oldest_seconds": round(queue.backlog.oldest_ready_seconds, 1),
                "paused_by": None if queue.pause is None else queue.pause.paused_by,
                "reason": None if queue.pause is None else queue.pause.reason,
            }
            for queue in queues_shown(tx, env.clock())
        ]
    columns = ("queue", "state", "due", "in_hand", "later", "lost_leases", "oldest_seconds", "reason")
    show(found, columns, as_json=as_json, empty="")


@commands.command("pause")
def pause(
    queue: Queue, reason: Annotated[str, typer.Option(help="Why; others see it.")], as_json: Json = False
) -> None:
    """Take nothing more of it until it is resumed. What is in hand is finished, and new work gathers."""
    with opened() as env:
        known_queue(queue)
        with env.database.begin() as tx:
            if not queue_pauses.pause(tx, queue, reason, env.clock(), by=done_by()):
                raise CommandError(f"{queue} is paused already: see `billhook queues list`.")
            note_action(tx, "queue.pause", queue, by=done_by(), now=env.clock(), detail={"reason": reason})
        say(f"{queue} is paused. `billhook queues resume {queue}` lets it go on.", as_json=as_json, queue=queue)


@commands.command("resume")
def resume(queue: Queue, as_json: Json = False) -> None:
    """Let it go on."""
    with opened() as env:
        known_queue(queue)
        with env.database.begin() as tx:
            if not queue_pauses.resume(tx, queue):
                raise CommandError(f"{queue} is not paused.")
            note_action(tx, "queue.resume", queue, by=done_by(), now=env.clock())
        say(f"{queue} goes on.", as_json=as_json, queue=queue)
