"""What `billhook` can be asked, in one list: each group is imported when one of its commands is, so that a command
starts as fast as what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

OPERATE: Final = "Look and mend"
SET_UP: Final = "Set up"
RUN: Final = "Run"


@dataclass(frozen=True)
class Part:
    """A group of commands, or a lone one, and where it is."""

    module: str
    name: str
    """Within the module."""
    text: str
    panel: str


PARTS: Final[dict[str, Part]] = {
    "events": Part("inbox", "events", "The events that came in.", OPERATE),
    "replay": Part("event_replay", "replay", "Process again what billhook received.", OPERATE),
    "import": Part("imports", "import_history", "Fill the book with what the provider has.", SET_UP),
    "dead-letters": Part("inbox", "letters", "Work that failed for good.", OPERATE),
    "queues": Part("queues", "commands", "What waits in each queue; stopping one and letting it go on.", OPERATE),
    "endpoints": Part("endpoints", "commands", "Where merchants want their messages.", OPERATE),
    "messages": Part("messages", "commands", "Messages to merchants' endpoints.", OPERATE),
    "resend": Part("replays", "resend", "Send merchants again what billhook sent them.", OPERATE),
    "replays": Part("replays", "commands", "The jobs that `resend` and `replay` have begun.", OPERATE),
    "invoices": Part("invoices", "commands", "Invoices, mirrored and own ones.", OPERATE),
    "dunning": Part("dunning", "commands", "Failed payments: policies, cases, and what a policy would do.", OPERATE),
    "reconcile": Part("reconcile", "commands", "Compare the book, and what came in, with the providers.", OPERATE),
    "merchants": Part("invoicing", "merchant_commands", "Merchants (tenants).", SET_UP),
    "sources": Part("sources", "commands", "Where events come from.", SET_UP),
    "keys": Part("accounts", "key_commands", "Bearer keys for the desk.", SET_UP),
    "customers": Part("customers", "customer_commands", "Merchants' customers.", SET_UP),
    "secrets": Part("sealing", "secret_commands", "The secrets that are stored, and the keys that seal them.", SET_UP),
    "operators": Part("operators", "commands", "The people of the console.", SET_UP),
}


@dataclass(frozen=True)
class Typed:
    """A command as it was typed."""

    words: tuple[str, ...]
    given: Mapping[str, Any]
    """Its arguments and options, under the names of the function's parameters."""


TYPED: Final[ContextVar[Typed]] = ContextVar("typed")
"""The command that is being done."""


def command_group(name: str) -> typer.Typer:
    """The group of this name, with what the list says of it."""
    return typer.Typer(name=name, help=PARTS[name].text, no_args_is_help=True)


class Commands(dict[str, Any]):
    """The commands by name, of which those in `PARTS` are imported when they are asked for."""

    def __init__(self, own: dict[str, Any]) -> None:
        super().__init__({**own, **dict.fromkeys(PARTS)})

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = _load(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self.keys() else default

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        return [self[name] for name in self]


class Root(TyperGroup):
    """`billhook` itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Commands(dict(self.commands))
        self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._listing and cmd_name in PARTS:
            part = PARTS[cmd_name]
            return TyperCommand(cmd_name, help=part.text, rich_help_panel=part.panel)
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """For a list of what there is, nothing has to be imported."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


def _load(name: str) -> Any:
    part = PARTS[name]
    found = getattr(importlib.import_module(f"billhook.cli.{part.module}"), part.name)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        for path, command in all_commands(group, (name,)):
            command.callback = _remembered(path, command.callback)
        return group
    lone = typer.Typer()
    lone.command(name)(found)
    command = get_command(lone)
    command.callback = _remembered((name,), command.callback)
    return command


def _remembered(words: tuple[str, ...], callback: Callable[..., Any] | None) -> Callable[..., Any]:
    assert callback is not None, "every command does something"

    @wraps(callback)
    def call(**given: Any) -> Any:
        before = TYPED.set(Typed(words, given))
        try:
            return callback(**given)
        finally:
            TYPED.reset(before)

    return call


def all_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command
