"""`billhook import`: an installation is filled with what a provider has."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from billhook.actions.reconciliation import begin_run, import_of
from billhook.actions.ringing import ring
from billhook.cli.arguments import Owner, Time, instant
from billhook.cli.following import follow, wants_to_follow
from billhook.cli.output import CommandError, Json, done_by, opened, show_one
from billhook.cli.replays import Follow
from billhook.runtime.env import Env
from billhook.store import reconciliation
from billhook.store.database import Tx
from billhook.store.reconciliation import Run, reconciliation_runs
from billhook.store.sources import Source, list_sources

USUAL_RANGE = timedelta(days=365)


def import_history(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="stripe or paddle, or a source's id.")],
    since: Time = None,
    until: Time = None,
    lists: Annotated[
        list[str] | None, typer.Option("--list", help="customer, invoice… Repeatable; left out: all.")
    ] = None,
    merchant: Owner = None,
    tell: Annotated[bool, typer.Option("--tell", help="Let merchants hear of everything that is new.")] = False,
    follow_it: Follow = None,
    as_json: Json = False,
) -> None:
    """Fill the book with what the provider has, and the book has not, made since --since (a year before, if left out).
    Merchants are told nothing of it."""
    with opened() as env:
        now = env.clock()
        with env.database.begin() as tx:
            source = _source(tx, provider, merchant)
            start, end = instant(since, now) or now - USUAL_RANGE, instant(until, now)
            run_id = begin_run(
                tx, import_of(source, start, now, by=done_by(), until=end, lists=lists or None, tells=tell), now
            )
        ring(env, {reconciliation_runs.name: [run_id]})
        if as_json:
            show_one(_run(env, run_id).shown(), as_json=True)
            return
        typer.echo(f"{run_id} is started. It goes on by itself: `billhook reconcile follow {run_id}`.")
        if wants_to_follow(follow_it):
            last = follow(lambda: _run(env, run_id), _described, reconciliation_runs.name)
            typer.echo(f"{run_id} is {last.state}: {last.repaired} objects imported.")
            for note in last.notes:
                typer.echo(note)


def _source(tx: Tx, name: str, merchant: str | None) -> Source:
    found = [
        source
        for source in list_sources(tx)
        if name in (source.provider, source.id) and merchant in (None, source.merchant_id)
    ]
    if not found:
        raise CommandError(f"There is no source {name!r}. Make one: `billhook sources add {name}`.")
    if len(found) > 1:
        ids = ", ".join(source.id for source in found)
        raise CommandError(f"There are several sources of {name}: say which by its id ({ids}).")
    return found[0]


def _run(env: Env, run_id: str) -> Run:
    with env.database.read() as tx:
        found = reconciliation.get_run(tx, run_id)
    assert found is not None, "it was just begun"
    return found


def _described(run: Run) -> str:
    note = f", {run.last_error}" if run.last_error else ""
    return f"{run.list_name or 'all lists'}: {run.compared} looked at, {run.repaired} imported{note}"
