"""The operator's commands for failed payments: `billhook dunning …`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import typer

from billhook.cli.arguments import Owner, owner_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.decoding import decode
from billhook.rules.dunning_policy import PRESETS, Policy, refusals
from billhook.rules.dunning_simulation import PAID
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case, get_case, list_cases, steps_of
from billhook.store.dunning_policies import current_policies, policies_of

if TYPE_CHECKING:
    from billhook.actions.dunning_cases import ChangedCase

commands = command_group("dunning")

CaseId = Annotated[str, typer.Argument(metavar="CASE_ID")]
PolicyOption = Annotated[
    str, typer.Option("--policy", metavar="NAME|FILE", help=f"A preset ({', '.join(PRESETS)}), or a file of JSON.")
]
_COLUMNS = ("id", "stage", "cause", "invoice", "customer", "amount", "currency", "opened_at", "grace_until", "ends_at")


def _policy(given: str) -> Policy:
    if given in PRESETS:
        return PRESETS[given]
    try:
        policy = decode(Path(given).read_bytes(), Policy)
    except OSError:
        raise CommandError(f"{given!r} is no preset ({', '.join(PRESETS)}) and no file that can be read.") from None
    except msgspec.ValidationError as error:
        raise CommandError(f"{given}: {error}") from None
    except msgspec.DecodeError as error:
        raise CommandError(f"{given} is not JSON: {error}") from None
    if found := refusals(policy):
        raise CommandError(f"{given}: {'; '.join(found)}")
    return policy


def _find(tx: Tx, case_id: str) -> Case:
    case = get_case(tx, case_id)
    if case is None:
        raise CommandError(f"There is no case {case_id!r}. See `billhook dunning cases`.")
    return case


@commands.command("policies")
def policies(merchant: Owner = None, as_json: Json = False) -> None:
    """Show the policies that count now."""
    with opened() as env, env.database.read() as tx:
        owner = owner_of(tx, merchant)
        found = [
            {
                "id": version.id,
                "scope": version.scope_kind if not version.scope else f"{version.scope_kind} {version.scope}",
                "version": version.version,
                **msgspec.to_builtins(version.policy),
                "source_id": version.source_id,
                "created_at": version.created_at,
                "created_by": version.created_by,
            }
            for version in current_policies(tx, [owner]).get(owner, [])
        ]
    rows = [{"attempts": [], "owner": "billhook", "end_day": None, **row} for row in found]
    columns = ("id", "scope", "version", "name", "owner", "attempts", "created_by")
    show(
        rows,
        columns,
        as_json=as_json,
        empty="No policy: nothing is done about failed payments. Set one: `billhook dunning set`.",
    )


@commands.command("set")
def set_policy(
    policy: PolicyOption,
    merchant: Owner = None,
    price: Annotated[str | None, typer.Option(help="Only for this price (the provider's id).")] = None,
    customer: Annotated[str | None, typer.Option(help="Only for this customer (the provider's id).")] = None,
    source: Annotated[str | None, typer.Option(help="Where invoices of billhook's own are charged.")] = None,
    as_json: Json = False,
) -> None:
    """Set a policy. One that charges is refused where Stripe's own retries are on."""
    from billhook.actions.dunning_policies import change_policy, check_owner

    with opened() as env:
        wanted = _policy(policy)
        if price and customer:
            raise CommandError("A policy is for a price or for a customer, not for both.")
        kind, scope = ("price", price) if price else ("customer", customer) if customer else ("merchant", "")
        with env.database.read() as tx:
            owner = owner_of(tx, merchant)
        check_owner(env.database, env.provider_apis, owner, wanted)
        with env.database.begin() as tx:
            version = change_policy(
                tx, owner, wanted, by=done_by(), now=env.clock(), scope_kind=kind, scope=scope or "", source_id=source
            )
        assert version is not None
        said = f"{version.id} counts from now on. Cases that are open keep the policy they have."
        say(said, as_json=as_json, id=version.id, scope_kind=kind, scope=scope or "", merchant_id=owner)


@commands.command("cases")
def cases(
    merchant: Narrow = None,
    stage: Annotated[str | None, typer.Option(help="Only at this stage.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only of this customer (the provider's id).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List cases, the oldest first."""
    with opened() as env, env.database.read() as tx:
        found = [
            vars(case) for case in list_cases(tx, merchant_id=merchant, stage=stage, customer=customer, limit=limit)
        ]
    show(found, _COLUMNS, as_json=as_json, empty="No cases.")


@commands.command("show")
def show_case(case_id: CaseId, as_json: Json = False) -> None:
    """Show a case: what happened, what was tried, and what is still to come."""
    from billhook.actions.dunning_news import calendar_of, progress_of
    from billhook.store.payment_attempts import attempts_of

    with opened() as env, env.database.read() as tx:
        case = _find(tx, case_id)
        version = policies_of(tx, [case.policy_id])[case.policy_id]
        steps = [dict(row) for row in steps_of(tx, case.id)]
        tried = [vars(attempt) for attempt in attempts_of(tx, case.id)]
    coming = calendar_of(case, version).steps(progress_of(case)) if case.open else []
    ahead = [{"at": step.at, "what": step.kind} for step in coming]
    if as_json:
        show_one({**vars(case), "steps": steps, "attempts": tried, "coming": ahead}, as_json=True)
        return
    show_one({**{name: vars(case)[name] for name in _COLUMNS}, "policy": version.policy.name}, as_json=False)
    for title, rows, columns in (
        ("\nWhat happened", steps, ("at", "cause", "stage", "by", "detail")),
        ("\nAttempts", tried, ("number", "trigger", "status", "code", "created_at", "reference")),
        ("\nStill to come", ahead, ("at", "what")),
    ):
        typer.echo(title)
        show(rows, columns, as_json=False, empty="Nothing.")


def _do(case_id: str, verb: Callable[[Tx, datetime], ChangedCase], said: str, as_json: bool) -> None:
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.begin() as tx:
            _find(tx, case_id)
            done = verb(tx, env.clock())
        ring(env, done.rings)
        say(said, as_json=as_json, id=case_id, stage=done.case.stage, ends_at=done.case.ends_at)


@commands.command("attempt")
def attempt(case_id: CaseId, as_json: Json = False) -> None:
    """Try to collect it at once. It does not count towards the policy."""
    from billhook.actions import dunning_cases as verbs

    said = "An attempt is on its way."
    _do(case_id, lambda tx, now: verbs.attempt_now(tx, case_id, by=done_by(), now=now), said, as_json)


@commands.command("extend")
def extend(
    case_id: CaseId, days: Annotated[int, typer.Option(help="How many days longer.")], as_json: Json = False
) -> None:
    """Give the customer more time."""
    from billhook.actions import dunning_cases as verbs

    _do(
        case_id,
        lambda tx, now: verbs.extend_grace(tx, case_id, days, by=done_by(), now=now),
        f"The grace is {days} days longer.",
        as_json,
    )


@commands.command("plan")
def plan(case_id: CaseId, policy: PolicyOption, as_json: Json = False) -> None:
    """Another policy for this case alone."""
    from billhook.actions import dunning_cases as verbs
    from billhook.actions.dunning_policies import check_owner

    with opened() as env:
        wanted = _policy(policy)
        with env.database.read() as tx:
            merchant_id = _find(tx, case_id).merchant_id
        check_owner(env.database, env.provider_apis, merchant_id, wanted)
    _do(
        case_id,
        lambda tx, now: verbs.change_plan(tx, case_id, wanted, by=done_by(), now=now),
        f"The case goes by {wanted.name} now.",
        as_json,
    )


@commands.command("stop")
def stop(case_id: CaseId, reason: Annotated[str, typer.Option(help="Why; it is kept.")], as_json: Json = False) -> None:
    """End the case: nobody is charged or reminded any more."""
    from billhook.actions import dunning_cases as verbs

    said = "The case is closed."
    _do(case_id, lambda tx, now: verbs.stop(tx, case_id, reason, by=done_by(), now=now), said, as_json)


@commands.command("simulate")
def simulate_policy(
    policy: PolicyOption,
    declines: Annotated[
        str,
        typer.Option(
            help=f"What the bank answers to each attempt, with commas; `{PAID}` is a yes. The last one stays."
        ),
    ] = "insufficient_funds",
    start: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="When the case opens. Now.")
    ] = None,
    zone: Annotated[str, typer.Option(help="The customer's time zone.")] = "UTC",
    replay: Annotated[bool, typer.Option("--replay", help="Play the merchant's past failures through it.")] = False,
    merchant: Owner = None,
    as_json: Json = False,
) -> None:
    """Show what a policy would do, before it is turned on."""
    from billhook.rules.dunning_simulation import simulate, timeline

    with opened() as env:
        wanted, where = _policy(policy), _zone(zone)
        answers = [code.strip() for code in declines.split(",") if code.strip()]
        if replay:
            with env.database.read() as tx:
                _replayed(wanted, where, answers, owner_of(tx, merchant), tx, as_json)
            return
        began = env.clock() if start is None else start.replace(tzinfo=where)
    moments = simulate(wanted, began, where, answers)
    rows = [
        {
            "day": (moment.at.astimezone(where).date() - began.astimezone(where).date()).days,
            "at": moment.at.astimezone(where),
            "what": moment.what,
            "stage": moment.stage,
            "access": moment.access,
        }
        for moment in moments
    ]
    show(rows, ("day", "at", "what", "stage", "access"), as_json=as_json, empty="")
    if not as_json:
        typer.echo(f"\n{timeline(moments, where)}")
        typer.echo("o opened  x attempt  r reminder  g grace over  + recovered  ! given up; a character is a day")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise CommandError(f"{name!r} is no time zone: use a name such as Europe/Berlin.") from None


def _replayed(policy: Policy, zone: ZoneInfo, answers: list[str], merchant_id: str, tx: Tx, as_json: bool) -> None:
    from billhook.store.failed_invoices import failed_invoices

    rows = [_past(policy, zone, answers, row) for row in failed_invoices(tx, merchant_id)]
    total = sum(row["attempts"] for row in rows)
    show(
        rows,
        ("invoice", "failed_at", "paid_at", "attempts", "ends_as"),
        as_json=as_json,
        empty="No failures in the book.",
    )
    if not as_json and rows:
        typer.echo(f"\n{len(rows)} failures, {total} attempts.")


def _past(policy: Policy, zone: ZoneInfo, answers: list[str], row: Any) -> dict[str, Any]:
    from billhook.rules.dunning_simulation import simulate

    moments = simulate(policy, row["failed_at"], zone, answers, row["paid_at"])
    return {
        "invoice": row["external_id"],
        "failed_at": row["failed_at"],
        "paid_at": row["paid_at"],
        "attempts": sum(moment.mark == "x" for moment in moments) + moments[-1].what.startswith("recovered by attempt"),
        "ends_as": moments[-1].stage,
    }
