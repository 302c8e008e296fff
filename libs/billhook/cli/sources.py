"""The operator's commands for sources: where events come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from billhook.cli.arguments import Owner, owner_of, secret_of, text_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, opened, say, show, show_one
from billhook.runtime.env import Env
from billhook.store import sources
from billhook.store.database import Tx
from billhook.store.sources import Source

commands = command_group("sources")


def _source(env: Env, source: Source) -> dict[str, Any]:
    return {
        "id": source.id,
        "merchant_id": source.merchant_id,
        "provider": source.provider,
        "name": source.name,
        "address": env.settings.source_address(source.id),
        "mode": "live" if source.livemode else "test",
        "api_key": "set" if source.api_key is not None else None,
        "warning": source.warning,
        "rotating": source.previous_secret is not None,
        "created_at": source.created_at,
        "disabled_at": source.disabled_at,
    }


def _find_source(tx: Tx, source_id: str) -> Source:
    source = sources.get_source(tx, source_id)
    if source is None:
        raise CommandError(f"There is no source {source_id!r}. See `billhook sources list`.")
    return source


Mode = Literal["live", "test"]
SourceId = Annotated[str, typer.Argument(metavar="SOURCE_ID")]
SecretOption = Annotated[
    str | None,
    typer.Option(
        "--secret",
        help="What the provider signs with: `-` asks for it. Left out: made, where the provider makes none.",
    ),
]
ApiBase = Annotated[str | None, typer.Option(help="Another address of the provider's API.")]


@commands.command("add")
def add_source(
    provider: Annotated[
        str,
        typer.Argument(
            help="Whose events: stripe, paddle, standard (of your own system), or one that was added. An unknown one is"
            " answered with all there are."  # to name them here would import them all, for `list` too
        ),
    ],
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    merchant: Owner = None,
    secret: SecretOption = None,
    api_key: Annotated[str | None, typer.Option(help="The provider's API key: `-` asks for it.")] = None,
    api_base: ApiBase = None,
    mode: Annotated[Mode | None, typer.Option(help="Left out: as the API key says, else live.")] = None,
    as_json: Json = False,
) -> None:
    """Make a source. A secret that billhook made is shown this once."""
    from billhook.actions.limits import check_room
    from billhook.actions.sources import register_source

    with opened() as env:
        given = secret_of(secret)
        with env.database.begin() as tx:
            owner = owner_of(tx, merchant)
            check_room(env, tx, owner, "sources", env.clock())
            source, made = register_source(
                tx,
                env.vault,
                env.clock(),
                merchant_id=owner,
                provider=provider,
                name=text_of("name", name or provider),
                secret=given,
                api_key=secret_of(api_key, "API key"),
                api_base=api_base,
                livemode=None if mode is None else mode == "live",
            )
        show_one(_source(env, source) | ({"secret": made} if made else {}), as_json=as_json)


@commands.command("list")
def list_sources(merchant: Narrow = None, as_json: Json = False) -> None:
    """List sources with their addresses."""
    with opened() as env, env.database.read() as tx:
        found = [_source(env, source) for source in sources.list_sources(tx, merchant)]
        columns = ("id", "merchant_id", "provider", "name", "mode", "api_key", "rotating", "disabled_at", "address")
        show(found, columns, as_json=as_json, empty="No sources yet. Make one: `billhook sources add PROVIDER`.")
        for source in found:
            if source["warning"] and not as_json:
                typer.echo(f"{source['id']}: {source['warning']}")


@commands.command("rotate")
def rotate(source_id: SourceId, secret: SecretOption = None, as_json: Json = False) -> None:
    """Sign with a new secret from now on; the one before it is accepted until `end-rotation`."""
    from billhook.actions.sources import secret_for

    with opened() as env:
        given = secret_of(secret)
        with env.database.begin() as tx:
            new = secret_for(_find_source(tx, source_id).provider, given)
            sources.rotate_secret(tx, source_id, env.vault.seal(new))
            source = _source(env, _find_source(tx, source_id))
        show_one(source | ({"secret": new} if given is None else {}), as_json=as_json)


@commands.command("end-rotation")
def end_rotation(source_id: SourceId, as_json: Json = False) -> None:
    """Accept only the current secret from now on."""
    with opened() as env:
        with env.database.begin() as tx:
            _find_source(tx, source_id)
            sources.end_rotation(tx, source_id)
        say(f"{source_id} accepts its current secret only.", as_json=as_json, id=source_id, rotating=False)


@commands.command("set-api-key")
def set_api_key(
    source_id: SourceId,
    api_key: Annotated[str | None, typer.Option(help="The key: `-` asks for it. Left out: it is taken away.")] = None,
    api_base: ApiBase = None,
    as_json: Json = False,
) -> None:
    """Set or take away the provider's API key, with which billhook asks what events alone cannot say."""
    from billhook.rules.urls import check_url

    with opened() as env:
        key = secret_of(api_key, "API key")
        if api_base is not None:
            check_url("api_base", api_base)
        with env.database.begin() as tx:
            source = _find_source(tx, source_id)
            if key is None:
                sources.set_api_key(tx, source_id, None, None)
            else:
                sources.set_api_key(tx, source_id, env.vault.seal(key), api_base or source.api_base)
        said = f"{source_id} has {'no' if key is None else 'an'} API key now."
        say(said, as_json=as_json, id=source_id, api_key=None if key is None else "set")


@commands.command("set-mode")
def set_mode(
    source_id: SourceId,
    mode: Annotated[Mode, typer.Argument(help="Whether real money moves there.")],
    as_json: Json = False,
) -> None:
    """Take events of this mode from now on; those of the other are kept and ignored."""
    with opened() as env:
        with env.database.begin() as tx:
            _find_source(tx, source_id)
            sources.set_mode(tx, source_id, mode == "live")
        said = f"{source_id} takes {mode} events now. Those that were ignored can be replayed."
        say(said, as_json=as_json, id=source_id, mode=mode)


@commands.command("disable")
def disable_source(source_id: SourceId, as_json: Json = False) -> None:
    """Refuse its events from now on (the ingress notices within seconds)."""
    _switch_source(source_id, as_json, disabled=True)


@commands.command("enable")
def enable_source(source_id: SourceId, as_json: Json = False) -> None:
    """Take its events again."""
    _switch_source(source_id, as_json, disabled=False)


def _switch_source(source_id: str, as_json: bool, *, disabled: bool) -> None:
    with opened() as env:
        with env.database.begin() as tx:
            _find_source(tx, source_id)
            sources.disable_source(tx, source_id, env.clock() if disabled else None)
        state = "disabled" if disabled else "enabled"
        say(f"{source_id} is {state}.", as_json=as_json, id=source_id, state=state)
