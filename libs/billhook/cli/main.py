"""The command line: starting processes and looking after an installation here; what an operator does is in the modules
beside, which `groups.py` lists.

An operator's commands work on the ledger itself, whether or not the product runs. Modules are imported where they are
used: a command is to start at once.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.groups import RUN, SET_UP, Root

Json = Annotated[bool, typer.Option("--json", help="A line of JSON for each, for programs.")]

EXIT_CODES = {
    0: "it was done",
    1: "it was not, or something is wrong: one sentence on standard error says what, and what to do",
    2: "the command itself was wrong: an option that does not exist, an argument that is missing",
}

app = typer.Typer(
    cls=Root,
    help="A self-hosted backbone for billing events.\n\nStart with `billhook up`, look with `billhook doctor`."
    " Every command that answers has --json, and ends with 0 when it was done, 1 when it was not, and 2 when it was"
    " typed wrong.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"billhook {version('billhook')}")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Which version this is.")
    ] = False,
) -> None:
    gc.freeze()  # by now the command is imported: see `main`
    gc.enable()


@app.command(rich_help_panel=RUN)
def up() -> None:
    """Run everything on this machine: every service, and a queue of its own where none is set."""
    from billhook.runtime.terminal import own_foreground

    with own_foreground():
        raise typer.Exit(_up())


def _up() -> int:
    from billhook.cli.live import live_line
    from billhook.cli.output import waiting
    from billhook.cli.welcome import ready_the_ground, welcome
    from billhook.runtime.env import Env
    from billhook.runtime.health import wait_until_ready
    from billhook.runtime.nursery import apart
    from billhook.runtime.service import service_names
    from billhook.runtime.settings import read_settings
    from billhook.runtime.supervisor import Supervisor

    settings = read_settings()
    supervisor = Supervisor(settings, service_names())
    supervisor.check_ports(usual=True)  # before anything is made: a key is shown only once
    supervisor.prepare()
    makes_key = Env(settings).lacks_encryption_key
    if not apart(lambda: ready_the_ground(settings)):
        return 1
    supervisor.start()
    with waiting(f"Starting {len(service_names())} services …"):
        ready = wait_until_ready(settings, service_names(), supervisor.stopping, supervisor.watch)
    if ready or not supervisor.stopping.is_set():
        # Last: a start that fails, or is stopped, must not have made a key that is shown only once.
        apart(lambda: welcome(settings, made_key=makes_key, ready=ready))
    with live_line(settings):
        return supervisor.wait()


@app.command(rich_help_panel=RUN)
def run(services: Annotated[list[str], typer.Argument(help="Which services: see `billhook services`.")]) -> None:
    """Run one service in this process, or several as children of it."""
    from billhook.runtime.env import Env
    from billhook.runtime.host import run_service
    from billhook.runtime.service import find_service
    from billhook.runtime.settings import read_settings
    from billhook.runtime.supervisor import Supervisor

    settings = read_settings()
    found = [find_service(name) for name in services]
    if len(found) == 1:
        raise typer.Exit(run_service(found[0], Env(settings)))
    supervisor = Supervisor(settings, services)
    supervisor.check_ports(usual=False)
    supervisor.prepare()
    supervisor.start()
    raise typer.Exit(supervisor.wait())


@app.command(rich_help_panel=RUN)
def services(as_json: Json = False) -> None:
    """List the services, with the port of each and a line about it."""
    from billhook.cli.output import show
    from billhook.runtime.service import find_service, service_names
    from billhook.runtime.settings import read_settings

    settings = read_settings()
    rows = [
        {"service": name, "port": settings.port_of(name), "summary": find_service(name).summary}
        for name in service_names()
    ]
    show(rows, ("service", "port", "summary"), as_json=as_json, empty="")


@app.command(rich_help_panel=RUN)
def doctor(as_json: Json = False) -> None:
    """Look for what is wrong in this installation, and say what to do about it. Ends with 1 if something is broken."""
    from billhook.cli.doctor import examine, show_examined

    found = examine()
    show_examined(found, as_json=as_json)
    raise typer.Exit(1 if any(one.severity == "broken" for one in found) else 0)


@app.command(rich_help_panel=RUN)
def check(as_json: Json = False) -> None:
    """Show the settings without secrets, and ping everything that is configured."""
    from billhook.cli.checks import check_everything
    from billhook.cli.output import show_one
    from billhook.runtime.env import Env
    from billhook.runtime.settings import read_settings

    settings = read_settings()
    results = check_everything(Env(settings, make=False))
    if as_json:
        show_one({"settings": settings.shown(), "checks": [vars(result) for result in results]}, as_json=True)
    else:
        for name, value in settings.shown().items():
            typer.echo(f"{name:<18} {value}")
        typer.echo()
        for result in results:
            typer.echo(f"{'ok' if result.ok else 'FAIL':<5} {result.what:<10} {result.detail}")
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command(name="migrate", rich_help_panel=SET_UP)
def migrate_command(as_json: Json = False) -> None:
    """Create the database's schema, or bring it up to date."""
    from billhook.cli.output import say, waiting
    from billhook.runtime.env import Env
    from billhook.runtime.settings import read_settings
    from billhook.store import fitness, migrate

    env = Env(read_settings())
    with waiting("Bringing the schema up to date …"):
        migrate.upgrade(env.database)
    at = fitness.revision(env.database)
    say(f"The schema is at {at}.", as_json=as_json, revision=at)
    env.close()


@app.command(name="new-key", rich_help_panel=SET_UP)
def new_key_command(as_json: Json = False) -> None:
    """Make a key for BILLHOOK_ENCRYPTION_KEYS."""
    from billhook.cli.output import say
    from billhook.store.vault import new_key

    key = new_key()
    say(key, as_json=as_json, key=key)


@app.command(rich_help_panel=SET_UP)
def docs(
    directory: Annotated[Path, typer.Argument(help="Where the generated pages go.")] = Path("docs"),
    as_json: Json = False,
) -> None:
    """Write the generated pages of the documentation anew."""
    from billhook.cli.commands_page import NAME, commands_page
    from billhook.cli.output import say
    from billhook.cli.pages import write_pages

    written = write_pages(directory)
    (directory / NAME).write_text(commands_page(typer.main.get_command(app), EXIT_CODES))
    for path in [*written, directory / NAME]:
        say(str(path), as_json=as_json, path=str(path))


def main() -> None:
    """The entry point: an error of ours is one sentence, not a trace."""
    import logging

    from billhook.errors import BillhookError

    # A command says itself what is wrong; the services that it starts set up their own lines.
    logging.getLogger("billhook").addHandler(logging.NullHandler())
    os.umask(0o077)  # what is made under `var` is nobody else's
    gc.disable()  # what imports make stays, a few hundred thousand objects: to look through them is a tenth of the time
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(0)  # whoever reads has enough, as `head` has: that is no failure
        raise
    except BillhookError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(1)
    finally:
        gc.freeze()  # the interpreter looks through all there is when it ends, and more than once, for what to free


if __name__ == "__main__":
    main()
