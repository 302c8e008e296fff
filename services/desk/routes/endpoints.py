"""Endpoints: where a merchant wants its messages, and how. What is done with one is in `endpoint_actions`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.actions.endpoints import cancel_all, change_endpoint, delete_endpoint, endpoint_shown, register_endpoint
from billhook.rules.delivery import (
    DEADLINE_SECONDS,
    LONGEST_SCHEDULE,
    LONGEST_TIMEOUT_SECONDS,
    LONGEST_WAIT_SECONDS,
    SCHEDULE_SECONDS,
)
from billhook.rules.endpoint_settings import (
    EVENTS,
    HIGHEST_RATE,
    LONGEST_DESCRIPTION,
    LONGEST_EVENT_TYPE,
    LOWEST_RATE,
    MOST_EVENT_TYPES,
    MOST_HEADERS,
    MOST_IN_FLIGHT,
    SHORTEST_TIMEOUT_SECONDS,
    SHORTEST_WAIT_SECONDS,
)
from billhook.rules.signing import Scheme
from billhook.rules.urls import LONGEST_URL
from billhook.runtime.env import Env
from billhook.store import endpoints
from billhook.store.database import Tx
from billhook.store.deliveries import HELD_LIMIT, held_for
from billhook.store.endpoints import Endpoint
from billhook.store.merchants import Caller
from services.desk.dependencies import (
    Body,
    CallerIn,
    EnvIn,
    Id,
    OldestFirst,
    OwnerIn,
    Page,
    Secret,
    known_merchant,
    page_of,
)
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/endpoints", tags=["endpoints"])


def documented(description: str, **bounds: Any) -> Any:
    """A field that may be left out or null. Its bounds are for the document: `rules.endpoint_settings` holds them."""
    return Field(None, description=description, json_schema_extra=bounds)


EventType = Annotated[
    str,
    Field(
        json_schema_extra={
            "pattern": r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$",
            "maxLength": LONGEST_EVENT_TYPE,
            "examples": ["*", "invoice.*", *EVENTS, "order.shipped", "order.*"],
        }
    ),
]
Wait = Annotated[float, Field(json_schema_extra={"minimum": SHORTEST_WAIT_SECONDS, "maximum": LONGEST_WAIT_SECONDS})]
Url = Annotated[
    str,
    Field(
        max_length=LONGEST_URL,
        description="https:// with a public host, and no password in it; more where the operator allows it.",
    ),
]


class Settings(Body):
    description: str | None = documented("For people.", maxLength=LONGEST_DESCRIPTION)
    event_types: list[EventType] | None = documented(
        "Names, all of an object's (`invoice.*`), or `*`, the default; your own events too.",
        minItems=1,
        maxItems=MOST_EVENT_TYPES,
    )
    headers: dict[str, str] | None = documented(
        "Sent with every message, for instance an `Authorization`. They are stored encrypted, and shown by name only.",
        maxProperties=MOST_HEADERS,
    )
    schedule: list[Wait] | None = documented(
        f"Seconds to wait after each failed attempt. Default: {', '.join(map(str, SCHEDULE_SECONDS))}.",
        maxItems=LONGEST_SCHEDULE,
    )
    timeout_seconds: float | None = documented(
        f"For a whole exchange. Default: {DEADLINE_SECONDS:g}.",
        minimum=SHORTEST_TIMEOUT_SECONDS,
        maximum=LONGEST_TIMEOUT_SECONDS,
    )
    max_in_flight: int | None = documented(
        "Requests at once, over all of billhook. Default: as many as the endpoint keeps up with.",
        minimum=1,
        maximum=MOST_IN_FLIGHT,
    )
    rate_limit: float | None = documented(
        "Deliveries a second. Default: no limit.", minimum=LOWEST_RATE, maximum=HIGHEST_RATE
    )
    ordering: Literal["none", "customer", "subscription"] | None = documented(
        "customer, subscription: messages about the same one arrive one after the other, and each waits until the one"
        " before it arrived or was given up. Default: none."
    )


class NewEndpoint(Settings):
    url: Url
    signing: Scheme | None = Field(
        None, description="v1: by a secret that both sides share, the default; v1a: by a key pair (Ed25519)."
    )
    secret: Secret | None = Field(
        None, description="One to go on with: `whsec_…` of 24 to 64 bytes for v1, `whsk_…` for v1a. Else one is made."
    )


class EndpointChanges(Settings):
    """What is left out stays; null is the default."""

    url: Url = Field(default_factory=str)  # of no effect, and in this form not in the document


class EndpointShown(BaseModel):
    id: str
    merchant_id: str
    url: str
    description: str
    event_types: list[str]
    state: Literal["enabled", "disabled"]
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="Nothing has arrived since then, though it was tried.")
    header_names: list[str]
    schedule: list[float] | None = Field(description="null, as with the following: the default.")
    timeout_seconds: float | None
    max_in_flight: int | None
    rate_limit: float | None
    ordering: str
    signing: Scheme
    public_key: str | None = Field(description="With v1a: `whpk_…`, to verify with.")
    previous_secrets: int = Field(description="Older secrets that messages are signed with too, after a rotation.")
    previous_secrets_until: datetime | None = Field(description="When the last of them ends.")
    created_at: datetime


class EndpointMade(EndpointShown):
    secret: str | None = Field(
        description="With v1, what messages are signed with, if billhook made it. It is never shown again."
    )


class EndpointWhole(EndpointShown):
    held: int = Field(description=f"Deliveries kept while it is disabled; {HELD_LIMIT} means so many or more.")


def show(env: Env, endpoint: Endpoint) -> EndpointShown:
    return EndpointShown(**endpoint_shown(env, endpoint, env.clock()))


def show_whole(env: Env, tx: Tx, endpoint: Endpoint) -> EndpointWhole:
    return EndpointWhole(**endpoint_shown(env, endpoint, env.clock()), held=held_for(tx, endpoint.id))


def show_made(env: Env, endpoint: Endpoint, secret: str | None) -> EndpointMade:
    return EndpointMade(**endpoint_shown(env, endpoint, env.clock()), secret=secret)


def find(tx: Tx, endpoint_id: str, caller: Caller) -> Endpoint:
    endpoint = endpoints.get_endpoint(tx, endpoint_id, merchant_id=caller.merchant_id)
    if endpoint is None:
        raise not_found("endpoint")
    return endpoint


@router.post("", status_code=201)
def create_endpoint(env: EnvIn, owner: OwnerIn, new: NewEndpoint) -> EndpointMade:
    """Make an endpoint. Its secret is shown this once."""
    with env.database.begin() as tx:
        endpoint, secret = register_endpoint(env, tx, known_merchant(tx, owner), now=env.clock(), **new.model_dump())
    return show_made(env, endpoint, secret)


@router.get("")
def list_endpoints(env: EnvIn, caller: CallerIn, query: Annotated[OldestFirst, Query()]) -> Page[EndpointShown]:
    with env.database.read() as tx:
        found = endpoints.list_endpoints(tx, query.visible_to(caller), after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, lambda endpoint: show(env, endpoint), lambda endpoint: endpoint.id)


@router.get("/{endpoint_id}")
def get_endpoint(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> EndpointWhole:
    with env.database.read() as tx:
        return show_whole(env, tx, find(tx, endpoint_id, caller))


@router.patch("/{endpoint_id}")
def update_endpoint(env: EnvIn, caller: CallerIn, endpoint_id: Id, changes: EndpointChanges) -> EndpointShown:
    """Set what is named and leave the rest. It counts from the next attempt on; `event_types` and `ordering` from the
    next message on."""
    with env.database.begin() as tx:
        find(tx, endpoint_id, caller)
        change_endpoint(env, tx, endpoint_id, env.clock(), **changes.model_dump(exclude_unset=True))
        return show(env, find(tx, endpoint_id, caller))


@router.delete("/{endpoint_id}", status_code=204)
def remove_endpoint(env: EnvIn, caller: CallerIn, endpoint_id: Id) -> None:
    """Delete it. What was still to be sent is canceled; what was sent stays to be seen."""
    with env.database.begin() as tx:
        find(tx, endpoint_id, caller)
        delete_endpoint(tx, endpoint_id, env.clock())
    cancel_all(env, endpoint_id, env.clock())
