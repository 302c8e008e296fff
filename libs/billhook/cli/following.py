"""Watching a job that goes on by itself: with a bar in a terminal, in lines in a log. To leave does not stop it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import typer

from billhook.cli.output import CommandError
from billhook.store.work import DEAD, DUE

if TYPE_CHECKING:
    from rich.console import Console

LOOK_SECONDS = 0.5


class Followed(Protocol):
    """A row of work that is done in many steps."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def progress(self) -> float: ...


J = TypeVar("J", bound=Followed)


def follow(find: Callable[[], J], describe: Callable[[J], str], queue: str, *, quiet: bool = False) -> J:
    """Until it is over; `quiet` says nothing on the way. Raises `CommandError` where it failed."""
    last = _quietly(find) if quiet else _watched(find, describe)
    if last.state == DEAD:
        reason = str(last.last_error).partition("\n")[0]
        raise CommandError(
            f"{last.id} failed: {reason}. To let it go on, replay its letter (`billhook dead-letters list"
            f" --queue {queue}`)."
        )
    return last


def wants_to_follow(said: bool | None) -> bool:
    """What was said; else whether somebody is looking."""
    return sys.stdout.isatty() if said is None else said


def _looks(find: Callable[[], J]) -> Iterator[J]:
    while True:
        job = find()
        yield job
        if job.state != DUE:
            return
        time.sleep(LOOK_SECONDS)


def _quietly(find: Callable[[], J]) -> J:
    for job in _looks(find):
        last = job
    return last


def _watched(find: Callable[[], J], describe: Callable[[J], str]) -> J:
    from rich.console import Console

    console = Console(file=sys.stdout)
    return _as_bar(find, describe, console) if console.is_terminal else _in_lines(find, describe)


def _in_lines(find: Callable[[], J], describe: Callable[[J], str]) -> J:
    """For a log: a line each time there is progress."""
    said = None
    for job in _looks(find):
        line = f"{job.progress:4.0%}  {describe(job)}"
        if job.state == DUE and line != said:
            typer.echo(line)
            said = line
    return job


def _as_bar(find: Callable[[], J], describe: Callable[[J], str], console: Console) -> J:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        for job in _looks(find):
            progress.update(task, completed=job.progress, description=describe(job))
    return job
