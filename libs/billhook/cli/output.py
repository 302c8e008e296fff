"""What commands share: how they open the ledger, and how they answer (aligned tables for people, JSON lines for
programs, one sentence for an error)."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import Annotated, Any
from unicodedata import combining, east_asian_width

import msgspec
import typer

from billhook.cli.groups import TYPED
from billhook.errors import BillhookError
from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from billhook.store.database import is_outage, is_unwritable, witnessed
from billhook.store.fitness import misfit
from billhook.store.operator_actions import Act
from billhook.store.schema import ids_among

Json = Annotated[bool, typer.Option("--json", help="A line of JSON for each, for programs.")]
Narrow = Annotated[str | None, typer.Option("--merchant", help="Only this merchant's.")]


class CommandError(BillhookError):
    """A command cannot do what it was asked; the message says what to do."""


def done_by() -> str:
    """Who did it, for the trace that a replay or a discard leaves."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user need not have a name
        return "cli"


@contextmanager
def opened() -> Iterator[Env]:
    """What a command works with; what it changes is noted, under the name of whoever typed it. Errors leave as one
    sentence on standard error and exit code 1."""
    env = None
    try:
        env = Env(read_settings(), make=False)
        if problem := misfit(env.database):
            raise CommandError(problem)
        with witnessed(_act(env)):
            yield env
    except BillhookError as error:
        typer.echo(f"billhook: {error}", err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        if not is_outage(error):
            raise
        what = "takes nothing more" if is_unwritable(error) else "does not answer"
        reason = str(error).partition("\n")[0]
        typer.echo(f"billhook: the database {what} (see `billhook check`): {reason}", err=True)
        raise typer.Exit(1) from None
    finally:
        if env is not None:
            env.close()


def _act(env: Env) -> Act:
    """What is being done, by the words that were typed: `endpoints rotate ep_…` is `endpoint.rotate`."""
    typed = TYPED.get()
    *group, verb = (word.replace("-", "_") for word in typed.words)
    action = ".".join([*(word.removesuffix("s") for word in group), verb])
    values = (one if isinstance(one, (list, tuple)) else [one] for one in typed.given.values())
    reason = typed.given.get("reason")
    return Act(
        action,
        by=done_by(),
        now=env.clock,
        subjects=ids_among(chain.from_iterable(values)),
        detail={"reason": reason} if reason else {},
    )


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Rows as a table of these columns, or each as a line of JSON with everything in it."""
    if as_json:
        for row in rows:
            typer.echo(msgspec.json.encode(row).decode())
        return
    if not rows:
        typer.echo(empty)
        return
    # By hand: to import what draws tables takes as long as half of all else that a command imports.
    head, *lines = aligned(
        [[column.replace("_", " ") for column in columns], *([_cell(row[c]) for c in columns] for row in rows)]
    )
    typer.echo(typer.style(head, bold=True))
    for line in lines:
        typer.echo(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which each column begins below itself. They are as long as their content, also where a terminal has to
    wrap them: half an id is of no use."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """In a terminal's cells: an ideograph takes two, and what is set above a letter none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """One thing as lines of name and value, or as a line of JSON."""
    if as_json:
        typer.echo(msgspec.json.encode(row).decode())
        return
    width = max(map(len, row)) + 2
    for name, value in row.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}{_cell(value)}")


def say(sentence: str, *, as_json: bool, **values: Any) -> None:
    """What was done, as a sentence for people or as values for programs."""
    typer.echo(msgspec.json.encode(values).decode() if as_json else sentence)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Something that takes seconds: a terminal shows that it goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    # What a sender wrote must not steer the terminal.
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))
