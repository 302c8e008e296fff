"""The command line: starting processes here, and what an operator does in the modules beside.

An operator's commands work on the ledger itself, whether or not the product runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from billhook.cli import (
    dunning,
    endpoints,
    event_replay,
    imports,
    inbox,
    invoices,
    invoicing,
    messages,
    reconcile,
    replays,
)
from billhook.cli.accounts import key_commands, merchant_commands, source_commands
from billhook.cli.checks import check_everything
from billhook.cli.customers import customer_commands
from billhook.cli.pages import write_pages
from billhook.cli.sealing import secret_commands
from billhook.cli.welcome import banner, prepare
from billhook.errors import BillhookError
from billhook.runtime.env import Env
from billhook.runtime.health import wait_until_ready
from billhook.runtime.host import run_service
from billhook.runtime.nursery import apart
from billhook.runtime.service import find_service, service_names
from billhook.runtime.settings import Settings, read_settings
from billhook.runtime.supervisor import Supervisor
from billhook.runtime.terminal import own_foreground
from billhook.store import fitness, migrate
from billhook.store.vault import new_key


def attach(app: typer.Typer) -> None:
    """Add the operator's commands."""
    for group in (
        *(merchant_commands, key_commands, source_commands, endpoints.commands, invoices.commands),
        *(messages.commands, replays.commands, dunning.commands, reconcile.commands),
        *(inbox.events, inbox.letters, customer_commands, secret_commands),
    ):
        app.add_typer(group)
    app.command()(event_replay.replay)
    app.command()(replays.resend)
    app.command(name="import")(imports.import_history)


app = typer.Typer(
    help="A self-hosted backbone for billing events.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
invoicing.attach(merchant_commands)
attach(app)


@app.command()
def up() -> None:
    """Run everything on this machine: every service, and a queue of its own where none is set."""
    with own_foreground():
        raise typer.Exit(_up())


def _up() -> int:
    settings = read_settings()
    supervisor = Supervisor(settings, service_names())
    supervisor.check_ports(usual=True)  # before anything is made: a key is shown only once
    supervisor.prepare()
    makes_key = Env(settings).lacks_encryption_key
    if not apart(lambda: _ready_the_ground(settings)):
        return 1
    supervisor.start()
    ready = wait_until_ready(settings, service_names(), supervisor.stopping, supervisor.watch)
    if ready or not supervisor.stopping.is_set():
        # Last: a start that fails, or is stopped, must not have made a key that is shown only once.
        apart(lambda: _welcome(settings, made_key=makes_key, ready=ready))
    return supervisor.wait()


def _ready_the_ground(settings: Settings) -> None:
    env = Env(settings)
    env.make_var()
    env.mailer  # noqa: B018 (refuses an address that cannot work)
    migrate.upgrade(env.database)
    env.make_encryption_key()
    env.close()


def _welcome(settings: Settings, *, made_key: bool, ready: bool) -> None:
    env = Env(settings)
    typer.echo(banner(env, prepare(env), made_key=made_key, ready=ready))
    env.close()


@app.command()
def run(services: Annotated[list[str], typer.Argument(help="Which services: see `billhook services`.")]) -> None:
    """Run one service in this process, or several as children of it."""
    settings = read_settings()
    found = [find_service(name) for name in services]
    if len(found) == 1:
        raise typer.Exit(run_service(found[0], Env(settings)))
    supervisor = Supervisor(settings, services)
    supervisor.check_ports(usual=False)
    supervisor.prepare()
    supervisor.start()
    raise typer.Exit(supervisor.wait())


@app.command()
def services() -> None:
    """List the services, with the port of each and a line about it."""
    settings = read_settings()
    for name in service_names():
        typer.echo(f"{name:<12} {settings.port_of(name):<5} {find_service(name).summary}")


@app.command()
def check() -> None:
    """Show the settings without secrets, and ping everything that is configured."""
    settings = read_settings()
    for name, value in settings.shown().items():
        typer.echo(f"{name:<18} {value}")
    typer.echo()
    results = check_everything(Env(settings))
    for result in results:
        typer.echo(f"{'ok' if result.ok else 'FAIL':<5} {result.what:<10} {result.detail}")
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command(name="migrate")
def migrate_command() -> None:
    """Create the database's schema, or bring it up to date."""
    env = Env(read_settings())
    migrate.upgrade(env.database)
    typer.echo(f"The schema is at {fitness.revision(env.database)}.")
    env.close()


@app.command(name="new-key")
def new_key_command() -> None:
    """Make a key for BILLHOOK_ENCRYPTION_KEYS."""
    typer.echo(new_key())


@app.command()
def docs(
    directory: Annotated[Path, typer.Argument(help="Where the generated pages go.")] = Path("docs"),
) -> None:
    """Write the generated pages of the documentation anew."""
    for path in write_pages(directory):
        typer.echo(path)


def main() -> None:
    """The entry point: an error of ours is one sentence, not a trace."""
    os.umask(0o077)  # what is made under `var` is nobody else's
    try:
        app()
    except BillhookError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
