"""The operator's commands for reconciliation: `billhook reconcile …`."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Annotated

import typer

from billhook.cli.arguments import Owner, Time, instant, owner_of
from billhook.cli.following import follow, wants_to_follow
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.cli.replays import Follow
from billhook.rules.reconcile import OPEN
from billhook.runtime.env import Env
from billhook.store import reconciliation
from billhook.store.database import Tx
from billhook.store.own_invoices import OWN
from billhook.store.reconciliation import Finding, Run, reconciliation_runs
from billhook.store.sources import get_source

commands = command_group("reconcile")

USUAL_RANGE = timedelta(days=35)

FindingId = Annotated[str, typer.Argument(metavar="FINDING_ID")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID")]
_RUN_COLUMNS = ("id", "source_id", "state", "at", "since", "until", "compared", "confirmed", "repaired")
_WHAT = ("id", "finding_class", "state", "kind", "external_id", "account")
_FINDING_COLUMNS = (*_WHAT, "differences", "amount", "currency")


@commands.command("run")
def run(
    source_id: Annotated[str, typer.Argument(metavar="SOURCE_ID", help="Or `own`: what billhook itself made.")],
    since: Time = None,
    until: Time = None,
    lists: Annotated[
        list[str] | None, typer.Option("--list", help="events, customer, documents… Repeatable; left out: all.")
    ] = None,
    merchant: Owner = None,
    observe: Annotated[bool, typer.Option("--observe", help="Find, and repair nothing.")] = False,
    follow_it: Follow = None,
    as_json: Json = False,
) -> None:
    """Compare what was made since --since (35 days before, if left out)."""
    from billhook.actions.reconciliation import begin_run, run_of
    from billhook.actions.ringing import ring

    with opened() as env:
        now = env.clock()
        with env.database.begin() as tx:
            since_at, until_at = instant(since, now) or now - USUAL_RANGE, instant(until, now)
            whose = owner_of(tx, merchant) if source_id == OWN else get_source(tx, source_id)
            if whose is None:
                raise CommandError(f"There is no source {source_id!r}. See `billhook sources list`.")
            new = run_of(whose, since_at, now, until=until_at, lists=lists, repairs=not observe, by=done_by())
            run_id = begin_run(tx, new, now)
        ring(env, {reconciliation_runs.name: [run_id]})
        if as_json:
            with env.database.read() as tx:
                show_one(_run(tx, run_id).shown(), as_json=True)
            return
        typer.echo(f"{run_id} is started. It goes on by itself: `billhook reconcile follow {run_id}`.")
        if wants_to_follow(follow_it):
            _follow(env, run_id)


@commands.command("follow")
def follow_run(run_id: RunId, as_json: Json = False) -> None:
    """Watch one until it is over. To leave does not stop it."""
    with opened() as env:
        _follow(env, run_id, as_json=as_json)


@commands.command("report")
def report(merchant: Narrow = None, as_json: Json = False) -> None:
    """Show the last runs, what they could not compare, and what is open, by class and amount at stake."""
    with opened() as env, env.database.read() as tx:
        runs = reconciliation.list_runs(tx, merchant_id=merchant, limit=20)
        show([run.shown() for run in runs], _RUN_COLUMNS, as_json=as_json, empty="No runs yet.")
        if as_json:
            return
        for note in (f"{run.id}: {note}" for run in runs for note in run.notes):
            typer.echo(note)
        found = reconciliation.list_findings(tx, merchant_id=merchant, limit=1000)
        for line in _by_class(found):
            typer.echo(line)


@commands.command("findings")
def findings(
    merchant: Narrow = None,
    states: Annotated[
        list[str] | None,
        typer.Option("--state", help="suspected, confirmed, reopened, repaired, accepted. Left out: what is open."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="All of them, for a spreadsheet.")] = False,
    as_json: Json = False,
) -> None:
    """List findings, the newest first."""
    with opened() as env, env.database.read() as tx:
        if as_csv:
            from billhook.actions.reconciliation import export_findings

            for line in export_findings(env.database, merchant, states or OPEN, "csv"):
                typer.echo(line.decode(), nl=False)
            return
        found = reconciliation.list_findings(tx, merchant_id=merchant, states=states or OPEN, limit=limit)
        rows = [one.shown() for one in found]
        show(rows, _FINDING_COLUMNS, as_json=as_json, empty="Nothing is open." if not states else "No such findings.")


@commands.command("accept")
def accept(finding_id: FindingId, as_json: Json = False) -> None:
    """Say that a difference is as it should be. It is told again when it is another one."""
    from billhook.actions.reconciliation import accept_finding

    with opened() as env:
        with env.database.begin() as tx:
            accept_finding(tx, _finding(tx, finding_id), by=done_by(), now=env.clock())
        say(f"{finding_id} is accepted.", as_json=as_json, id=finding_id, state="accepted")


@commands.command("repair")
def repair(finding_id: FindingId, as_json: Json = False) -> None:
    """Ask the provider once more, and let the book take what it says; or make again what billhook had made."""
    from billhook.actions.reconciliation import repair_finding
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.read() as tx:
            found = _finding(tx, finding_id)
        ring(
            env,
            repair_finding(
                env.database, env.provider_apis, env.clock, found, by=done_by(), objects=lambda: env.objects
            ),
        )
        said = f"{finding_id} is repaired: the services take it from here."
        say(said, as_json=as_json, id=finding_id, state="repaired")


def _run(tx: Tx, run_id: str) -> Run:
    found = reconciliation.get_run(tx, run_id)
    if found is None:
        raise CommandError(f"There is no run {run_id!r}. See `billhook reconcile report`.")
    return found


def _finding(tx: Tx, finding_id: str) -> Finding:
    found = reconciliation.get_finding(tx, finding_id)
    if found is None:
        raise CommandError(f"There is no finding {finding_id!r}. See `billhook reconcile findings`.")
    return found


def _by_class(found: list[Finding]) -> list[str]:
    counts = Counter(one.finding_class for one in found)
    amounts: Counter[tuple[str, str]] = Counter()
    for one in found:
        if one.amount is not None and one.currency is not None:
            amounts[(one.finding_class, one.currency)] += one.amount
    return [
        f"open: {count} {name}"
        + "".join(f", {amount} {currency} at stake" for (known, currency), amount in amounts.items() if known == name)
        for name, count in sorted(counts.items())
    ] or ["open: nothing"]


def _follow(env: Env, run_id: str, *, as_json: bool = False) -> None:
    def find() -> Run:
        with env.database.read() as tx:
            return _run(tx, run_id)

    last = follow(find, _described, reconciliation_runs.name, quiet=as_json)
    if as_json:
        show_one(last.shown(), as_json=True)
        return
    typer.echo(f"{run_id} is {last.state}: {last.confirmed} confirmed, {last.repaired} repaired.")
    for note in last.notes:
        typer.echo(note)


def _described(run: Run) -> str:
    return f"{run.at}: {run.compared} compared, {run.confirmed} confirmed"
