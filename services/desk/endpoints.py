"""Endpoints: where a merchant wants its messages."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from billhook.runtime.env import Env
from billhook.runtime.registration import EVENT_TYPES, LONGEST_URL, register_endpoint
from billhook.store import endpoints
from billhook.store.database import Tx
from billhook.store.endpoints import Endpoint
from billhook.store.merchants import Caller
from services.desk.refusals import not_found
from services.desk.terms import CallerIn, EnvIn, Id, OldestFirst, OwnerIn, Page, known_merchant, page_of

router = APIRouter(prefix="/v1/endpoints", tags=["endpoints"])

Description = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
EventType = Annotated[str, Field(max_length=100, json_schema_extra={"enum": [*EVENT_TYPES]})]


class NewEndpoint(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=LONGEST_URL, description="http:// or https://, with a host and no password in it.")
    event_types: list[EventType] = Field(["*"], min_length=1, max_length=100)
    description: Description = ""


class EndpointShown(BaseModel):
    id: str
    merchant_id: str
    url: str
    description: str
    event_types: list[str]
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


class EndpointMade(EndpointShown):
    secret: str = Field(description="What its messages are signed with (Standard Webhooks). It is never shown again.")


def _show(endpoint: Endpoint) -> EndpointShown:
    return EndpointShown(**{name: value for name, value in vars(endpoint).items() if name != "secret"})


def _find(tx: Tx, endpoint_id: str, caller: Caller) -> Endpoint:
    endpoint = endpoints.get_endpoint(tx, endpoint_id, merchant_id=caller.merchant_id)
    if endpoint is None:
        raise not_found("endpoint")
    return endpoint


@router.post("", status_code=201)
def create_endpoint(env: EnvIn, owner: OwnerIn, new: NewEndpoint) -> EndpointMade:
    """Make an endpoint. Its secret is shown this once."""
    with env.database.begin() as tx:
        endpoint, secret = register_endpoint(
            tx, env.vault, env.clock(), merchant_id=known_merchant(tx, owner), **new.model_dump()
        )
    return EndpointMade(**_show(endpoint).model_dump(), secret=secret)


@router.get("")
def list_endpoints(env: EnvIn, caller: CallerIn, query: Annotated[OldestFirst, Query()]) -> Page[EndpointShown]:
    with env.database.read() as tx:
        found = endpoints.list_endpoints(tx, query.visible_to(caller), after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, _show, lambda endpoint: endpoint.id)


@router.get("/{endpoint_id}")
def get_endpoint(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> EndpointShown:
    with env.database.read() as tx:
        return _show(_find(tx, endpoint_id, caller))


@router.post("/{endpoint_id}/disable")
def disable(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> EndpointShown:
    """Stop sending to it."""
    return _switch(env, caller, endpoint_id, env.clock(), f"disabled by {caller.key_id}")


@router.post("/{endpoint_id}/enable")
def enable(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> EndpointShown:
    """Send to it again. What failed in between is in the dead letters, to be replayed."""
    return _switch(env, caller, endpoint_id, None, None)


def _switch(
    env: Env, caller: Caller, endpoint_id: str, disabled_at: datetime | None, reason: str | None
) -> EndpointShown:
    with env.database.begin() as tx:
        _find(tx, endpoint_id, caller)
        endpoints.set_disabled(tx, endpoint_id, disabled_at, reason)
        return _show(_find(tx, endpoint_id, caller))
