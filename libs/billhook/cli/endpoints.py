"""The operator's commands for webhook endpoints: `billhook endpoints …`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from billhook.cli.arguments import Owner, owner_of, secret_of, text_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, done_by, opened, say, show, show_one
from billhook.rules.endpoint_settings import ORDERINGS, OVERLAP_SECONDS, SETTINGS
from billhook.rules.signing import Scheme
from billhook.runtime.env import Env
from billhook.store import endpoints
from billhook.store.database import Tx
from billhook.store.deliveries import held_for
from billhook.store.endpoints import Endpoint

commands = command_group("endpoints")

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT_ID")]
Description = Annotated[str | None, typer.Option(help="For people.")]
Events = Annotated[list[str] | None, typer.Option("--event", help="A name, invoice.*, or *. Repeatable.")]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", help="'Name: value', sent with every message. Repeatable; `-` reads a line for each."),
]
Schedule = Annotated[
    str | None, typer.Option(help="Seconds to wait after each failed attempt: 5,300,1800. Empty: try once.")
]
Timeout = Annotated[float | None, typer.Option(help="Seconds for a whole exchange.")]
MaxInFlight = Annotated[int | None, typer.Option(help="Requests at once.")]
Rate = Annotated[float | None, typer.Option(help="Deliveries a second.")]
Ordering = Annotated[str | None, typer.Option(help=f"{', '.join(ORDERINGS)}: what arrives one after the other.")]
Signing = Annotated[Scheme | None, typer.Option(help="By a shared secret, or by a key pair (Ed25519).")]
Secret = Annotated[
    str | None, typer.Option(help="One to go on with: whsec_… or whsk_…; `-` reads it. Left out: one is made.")
]


def _settings(
    description: str | None,
    events: list[str] | None,
    header: list[str] | None,
    schedule: str | None,
    timeout: float | None,
    max_in_flight: int | None,
    rate: float | None,
    ordering: str | None,
) -> dict[str, Any]:
    """Those that were given, under the names they are stored by."""
    given = {
        "description": description,
        "event_types": events or None,
        "headers": _headers(header) if header else None,
        "schedule": None if schedule is None else _waits(schedule),
        "timeout_seconds": timeout,
        "max_in_flight": max_in_flight,
        "rate_limit": rate,
        "ordering": ordering,
    }
    return {name: value for name, value in given.items() if value is not None}


def _headers(given: Iterable[str]) -> dict[str, str]:
    lines = [line for word in given for line in (sys.stdin.read().splitlines() if word == "-" else [word])]
    headers: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon or name.strip() in headers:
            raise CommandError("A header is written 'Name: value', and each name once.")
        headers[name.strip()] = value.strip()
    return headers


def _waits(text: str) -> list[float]:
    try:
        return [float(wait) for wait in text.split(",") if wait.strip()]
    except ValueError:
        raise CommandError(
            f"A schedule is seconds with commas between them, such as 5,300,1800; not {text!r}."
        ) from None


def _find(tx: Tx, endpoint_id: str) -> Endpoint:
    endpoint = endpoints.get_endpoint(tx, endpoint_id)
    if endpoint is None:
        raise CommandError(f"There is no endpoint {endpoint_id!r}. See `billhook endpoints list`.")
    return endpoint


def _whole(env: Env, tx: Tx, endpoint_id: str) -> dict[str, Any]:
    from billhook.actions.endpoints import endpoint_shown

    return endpoint_shown(env, _find(tx, endpoint_id), env.clock()) | {"held": held_for(tx, endpoint_id)}


def _secret_row(secret: str | None) -> dict[str, str]:
    return {} if secret is None else {"secret": secret}


@commands.command("add")
def add_endpoint(
    url: Annotated[str, typer.Argument(help="https://, with a public host (or what the settings allow).")],
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    schedule: Schedule = None,
    timeout: Timeout = None,
    max_in_flight: MaxInFlight = None,
    rate: Rate = None,
    ordering: Ordering = None,
    signing: Signing = None,
    secret: Secret = None,
    merchant: Owner = None,
    as_json: Json = False,
) -> None:
    """Make an endpoint. The secret its messages are signed with is shown this once."""
    from billhook.actions.endpoints import endpoint_shown, register_endpoint

    with opened() as env:
        settings = _settings(description, events, header, schedule, timeout, max_in_flight, rate, ordering)
        given = secret_of(secret)
        with env.database.begin() as tx:
            endpoint, revealed = register_endpoint(
                env, tx, owner_of(tx, merchant), url=url, secret=given, signing=signing, now=env.clock(), **settings
            )
        show_one(endpoint_shown(env, endpoint, env.clock()) | _secret_row(revealed), as_json=as_json)


@commands.command("list")
def list_endpoints(merchant: Narrow = None, as_json: Json = False) -> None:
    """List endpoints."""
    from billhook.actions.endpoints import endpoint_shown

    with opened() as env, env.database.read() as tx:
        found = [endpoint_shown(env, endpoint, env.clock()) for endpoint in endpoints.list_endpoints(tx, merchant)]
        columns = ("id", "merchant_id", "url", "event_types", "state", "failing_since", "disabled_reason")
        show(found, columns, as_json=as_json, empty="No endpoints yet. Make one: `billhook endpoints add URL`.")


@commands.command("show")
def show_endpoint(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Show one with all its settings, and how many deliveries are held for it."""
    with opened() as env, env.database.read() as tx:
        show_one(_whole(env, tx, endpoint_id), as_json=as_json)


@commands.command("set")
def set_endpoint(
    endpoint_id: EndpointId,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    schedule: Schedule = None,
    timeout: Timeout = None,
    max_in_flight: MaxInFlight = None,
    rate: Rate = None,
    ordering: Ordering = None,
    reset: Annotated[
        list[str] | None, typer.Option(help=f"Back to the default: {', '.join(SETTINGS)}. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set what is named and leave the rest. Headers and events that are given take the place of all there were."""
    from billhook.actions.endpoints import change_endpoint, endpoint_shown

    with opened() as env:
        changes = _settings(description, events, header, schedule, timeout, max_in_flight, rate, ordering)
        for name in reset or ():
            if name not in SETTINGS or name in changes:
                raise CommandError(f"--reset {name}: choose one of {', '.join(SETTINGS)} that is not set as well.")
            changes[name] = None
        if url is not None:
            changes["url"] = url
        with env.database.begin() as tx:
            _find(tx, endpoint_id)
            change_endpoint(env, tx, endpoint_id, env.clock(), **changes)
            endpoint = endpoint_shown(env, _find(tx, endpoint_id), env.clock())
        show_one(endpoint, as_json=as_json)


@commands.command("test")
def send_ping(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Send a `ping` to this endpoint only, whatever its event filter."""
    from billhook.actions.endpoints import ping
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.begin() as tx:
            endpoint = _find(tx, endpoint_id)
            if endpoint.disabled_at is not None:
                raise CommandError(f"{endpoint_id} is disabled. Enable it first: `billhook endpoints enable`.")
            message_id, due = ping(tx, endpoint, env.clock())
        ring(env, {"deliveries": due})
        show_one({"message_id": message_id, "delivery_id": due[0]}, as_json=as_json)


@commands.command("rotate")
def rotate_endpoint(
    endpoint_id: EndpointId,
    overlap_seconds: Annotated[
        int, typer.Option(help="How long the present secret signs too. 0: no longer, nor any older one.")
    ] = OVERLAP_SECONDS,
    signing: Signing = None,
    secret: Secret = None,
    as_json: Json = False,
) -> None:
    """Sign with a new secret from now on, and for a while with the one before it too. It is shown this once."""
    from billhook.actions.endpoints import endpoint_shown, rotate

    with opened() as env:
        given = secret_of(secret)
        with env.database.begin() as tx:
            _find(tx, endpoint_id)
            now = env.clock()
            revealed = rotate(
                env, tx, endpoint_id, overlap_seconds=overlap_seconds, secret=given, signing=signing, now=now
            )
            endpoint = endpoint_shown(env, _find(tx, endpoint_id), env.clock())
        show_one(endpoint | _secret_row(revealed), as_json=as_json)


@commands.command("disable")
def disable_endpoint(
    endpoint_id: EndpointId,
    reason: Annotated[str | None, typer.Option(help="For whoever asks later.")] = None,
    as_json: Json = False,
) -> None:
    """Stop sending to it. What comes meanwhile is held for it."""
    why = f"disabled by {done_by()}"
    with opened() as env:
        if reason is not None:
            why += f": {text_of('reason', reason)}"
        with env.database.begin() as tx:
            _find(tx, endpoint_id)
            endpoints.set_disabled(tx, endpoint_id, env.clock(), why)
        say(f"{endpoint_id} is disabled.", as_json=as_json, id=endpoint_id, state="disabled", reason=why)


@commands.command("enable")
def enable(
    endpoint_id: EndpointId,
    replay_held: Annotated[bool, typer.Option("--replay-held", help="Send what is held for it, too.")] = False,
    as_json: Json = False,
) -> None:
    """Send to it again. What is held for it stays so until it is replayed."""
    from billhook.actions.endpoints import enable_endpoint
    from billhook.actions.ringing import ring

    with opened() as env:
        with env.database.begin() as tx:
            _find(tx, endpoint_id)
            job = enable_endpoint(tx, endpoint_id, replay_held=replay_held, by=done_by(), now=env.clock())
            held = held_for(tx, endpoint_id)
        if job is not None:
            ring(env, {"replays": [job]})
        said = f"{endpoint_id} is enabled."
        if job is not None:
            said += f"\nDeliveries that were held and are sent now: {held}. See `billhook replays show {job}`."
        elif held:
            said += f"\nDeliveries held for it: {held}. The same command with --replay-held sends them."
        say(said, as_json=as_json, id=endpoint_id, state="enabled", held=held, replay_id=job)


@commands.command("delete")
def remove_endpoint(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Delete it. What was still to be sent is canceled; what was sent stays to be seen."""
    from billhook.actions.endpoints import cancel_all, delete_endpoint

    with opened() as env:
        with env.database.begin() as tx:
            _find(tx, endpoint_id)
            delete_endpoint(tx, endpoint_id, env.clock())
        cancel_all(env, endpoint_id, env.clock())
        say(f"{endpoint_id} is deleted.", as_json=as_json, id=endpoint_id, state="deleted")
