"""Sources: where a merchant's events come from."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.actions.limits import check_room
from billhook.actions.sources import register_source, secret_for
from billhook.providers import PROVIDERS
from billhook.rules.urls import check_url
from billhook.runtime.env import Env
from billhook.store import sources
from billhook.store.database import Tx
from billhook.store.merchants import Caller
from billhook.store.sources import Source
from services.desk.dependencies import (
    Body,
    CallerIn,
    EnvIn,
    Id,
    OldestFirst,
    OwnerIn,
    Page,
    Secret,
    Text,
    known_merchant,
    page_of,
)
from services.desk.refusals import not_found, operator_only

router = APIRouter(prefix="/v1/sources", tags=["sources"])


class NewSource(Body):
    provider: str = Field(json_schema_extra={"enum": [*sorted(PROVIDERS)]})
    name: Text
    secret: Secret | None = Field(
        None,
        description="What the provider signs with. Left out: made and shown once, where the provider makes none.",
    )
    api_key: Secret | None = Field(None, description="The provider's API key, to ask what events alone cannot say.")
    api_base: str | None = Field(
        None, max_length=2000, description="Another address of the provider's API. Only the operator may set it."
    )
    livemode: bool | None = Field(
        None,
        description="Whether real money moves there; false is for tests. Left out: as the API key says, else true."
        " Events of the other mode are kept and ignored.",
    )


class NewMode(Body):
    livemode: bool


class NewSecret(Body):
    secret: Secret | None = Field(None, description="Left out: billhook makes one, if the provider makes none.")


class ApiKey(Body):
    api_key: Secret | None = Field(description="null takes the key away.")
    api_base: str | None = Field(None, max_length=2000, description="Only the operator may set it.")


class SourceShown(BaseModel):
    id: str
    merchant_id: str
    provider: str
    name: str
    path: str = Field(description="Where at the ingress its events are posted.")
    address: str = Field(description="The whole address, to be given to the provider.")
    api_key_set: bool
    api_base: str | None
    livemode: bool
    warning: str | None = Field(description="What is wrong with it, and what to do: the provider refuses the API key.")
    rotating: bool = Field(description="The secret before the current one is still accepted.")
    created_at: datetime
    disabled_at: datetime | None


class SourceMade(SourceShown):
    secret: str | None = Field(description="The signing secret, if billhook made it. It is never shown again.")


def _show(env: Env, source: Source) -> SourceShown:
    return SourceShown(
        id=source.id,
        merchant_id=source.merchant_id,
        provider=source.provider,
        name=source.name,
        path=f"/v1/sources/{source.id}/events",
        address=env.settings.source_address(source.id),
        api_key_set=source.api_key is not None,
        api_base=source.api_base,
        livemode=source.livemode,
        warning=source.warning,
        rotating=source.previous_secret is not None,
        created_at=source.created_at,
        disabled_at=source.disabled_at,
    )


def _made(env: Env, source: Source, secret: str | None) -> SourceMade:
    return SourceMade(**_show(env, source).model_dump(), secret=secret)


def _find(tx: Tx, source_id: str, caller: Caller) -> Source:
    source = sources.get_source(tx, source_id, merchant_id=caller.merchant_id)
    if source is None:
        raise not_found("source")
    return source


def _check_base(caller: Caller, api_base: str | None) -> None:
    """The provider's API key is sent there: a merchant must not point billhook at addresses of its network."""
    if api_base is not None:
        if caller.merchant_id is not None:
            raise operator_only()
        check_url("api_base", api_base)


@router.post("", status_code=201)
def create_source(env: EnvIn, caller: CallerIn, owner: OwnerIn, new: NewSource) -> SourceMade:
    """Make a source. A secret that billhook made is shown this once."""
    _check_base(caller, new.api_base)
    with env.database.begin() as tx:
        merchant_id = known_merchant(tx, owner)
        check_room(env, tx, merchant_id, "sources", env.clock())
        source, secret = register_source(tx, env.vault, env.clock(), merchant_id=merchant_id, **new.model_dump())
    return _made(env, source, secret)


@router.get("")
def list_sources(env: EnvIn, caller: CallerIn, query: Annotated[OldestFirst, Query()]) -> Page[SourceShown]:
    with env.database.read() as tx:
        found = sources.list_sources(tx, query.visible_to(caller), after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, partial(_show, env), lambda source: source.id)


@router.get("/{source_id}")
def get_source(env: EnvIn, caller: CallerIn, source_id: Id) -> SourceShown:
    with env.database.read() as tx:
        return _show(env, _find(tx, source_id, caller))


@router.post("/{source_id}/rotate")
def rotate(env: EnvIn, caller: CallerIn, source_id: Id, new: NewSecret) -> SourceMade:
    """Sign with a new secret from now on. The one before it is accepted too, until the rotation is ended."""
    with env.database.begin() as tx:
        secret = secret_for(_find(tx, source_id, caller).provider, new.secret)
        sources.rotate_secret(tx, source_id, env.vault.seal(secret))
        return _made(env, _find(tx, source_id, caller), secret if new.secret is None else None)


@router.post("/{source_id}/end-rotation")
def end_rotation(env: EnvIn, caller: CallerIn, source_id: Id) -> SourceShown:
    """Accept only the current secret from now on."""
    with env.database.begin() as tx:
        _find(tx, source_id, caller)
        sources.end_rotation(tx, source_id)
        return _show(env, _find(tx, source_id, caller))


@router.put("/{source_id}/api-key")
def set_api_key(env: EnvIn, caller: CallerIn, source_id: Id, new: ApiKey) -> SourceShown:
    """Set or take away the provider's API key. The address stays where none is given, and goes with the key."""
    _check_base(caller, new.api_base)
    with env.database.begin() as tx:
        source = _find(tx, source_id, caller)
        if new.api_key is None:
            sources.set_api_key(tx, source_id, None, None)
        else:
            sources.set_api_key(tx, source_id, env.vault.seal(new.api_key), new.api_base or source.api_base)
        return _show(env, _find(tx, source_id, caller))


@router.put("/{source_id}/mode")
def set_mode(env: EnvIn, caller: CallerIn, source_id: Id, new: NewMode) -> SourceShown:
    """Take events of this mode from now on. Those that were ignored can be replayed; the book stays as it is."""
    with env.database.begin() as tx:
        _find(tx, source_id, caller)
        sources.set_mode(tx, source_id, new.livemode)
        return _show(env, _find(tx, source_id, caller))


@router.post("/{source_id}/disable")
def disable(env: EnvIn, caller: CallerIn, source_id: Id) -> SourceShown:
    """Refuse its events from now on (the ingress notices within seconds)."""
    return _switch(env, caller, source_id, env.clock())


@router.post("/{source_id}/enable")
def enable(env: EnvIn, caller: CallerIn, source_id: Id) -> SourceShown:
    return _switch(env, caller, source_id, None)


def _switch(env: Env, caller: Caller, source_id: str, disabled_at: datetime | None) -> SourceShown:
    with env.database.begin() as tx:
        _find(tx, source_id, caller)
        sources.disable_source(tx, source_id, disabled_at)
        return _show(env, _find(tx, source_id, caller))
