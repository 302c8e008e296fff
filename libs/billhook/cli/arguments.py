"""Arguments that commands share: the merchant, secrets that stay out of the shell's history, lines of text, times."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from getpass import getpass
from typing import Annotated

import typer

from billhook.cli.output import CommandError
from billhook.store import merchants
from billhook.store.database import Tx

Owner = Annotated[
    str | None, typer.Option("--merchant", help="The merchant's id. May be left out where there is only one.")
]

Time = Annotated[
    str | None, typer.Option(metavar="TIME", help="2026-11-01, 2026-11-01T09:30 (UTC), or how long ago: 30m, 24h, 7d.")
]

_SPAN = re.compile(r"(\d{1,4})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def instant(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    if span := _SPAN.fullmatch(text):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no time: use 2026-11-01, 2026-11-01T09:30, or how long ago: 24h.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def owner_of(tx: Tx, given: str | None) -> str:
    if given is not None:
        if merchants.get_merchant(tx, given) is None:
            raise CommandError(f"There is no merchant {given!r}. See `billhook merchants list`.")
        return given
    found = merchants.companies(tx, limit=2)
    if not found:
        raise CommandError("There is no merchant yet. Make one: `billhook merchants add NAME`.")
    if len(found) > 1:
        raise CommandError("There are several merchants: say which with --merchant (see `billhook merchants list`).")
    return found[0]


def secret_of(given: str | None, what: str = "secret") -> str | None:
    """A secret: with `-` a line of standard input, which a terminal does not show. On the command line it would be in
    the shell's history, and in the list of processes for everybody on the machine."""
    if given == "-":
        read: str | None = getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
    else:
        read = given
    if read is not None and not (read.isascii() and read.isprintable() and read):
        raise CommandError("A secret is one line of printable ASCII characters.")
    return read


def text_of(name: str, value: str) -> str:
    if not 0 < len(value) <= 255 or not value.isprintable():
        raise CommandError(f"The {name} must be 1 to 255 printable characters.")
    return value
