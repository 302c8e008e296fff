"""Publishing: a merchant's own events, sent as billhook's are."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from billhook.actions.publishing import Prepared, Publication, Published, prepared, publish_all
from billhook.rules.endpoint_settings import LONGEST_EVENT_TYPE
from billhook.runtime.env import Env
from services.desk.batching import Batches
from services.desk.dependencies import REPLAYED, CallerIn, EnvIn, OwnerIn, Text, known_merchant

router = APIRouter(prefix="/v1/messages", tags=["messages"])


Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="Yours for this event. The same request under the same key is answered again, and published once.",
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    ),
]


MOST_AT_ONCE = 200
"""Events in one transaction."""


def publisher(env: Env) -> Batches[Prepared, Published]:
    """All requests that wait share the next transaction."""
    return Batches(lambda wanted: publish_all(env, wanted), largest=MOST_AT_ONCE)


async def _publisher(request: Request) -> Batches[Prepared, Published]:
    found: Batches[Prepared, Published] = request.app.state.publisher
    return found


PublisherIn = Annotated[Batches[Prepared, Published], Depends(_publisher)]


def _check_merchant(env: Env, merchant_id: str) -> None:
    with env.database.read() as tx:
        known_merchant(tx, merchant_id)


class NewMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event_type: str = Field(
        description="A name of your own, of two words or more: `order.shipped`. The first is none of billhook's.",
        json_schema_extra={"pattern": r"^[a-z0-9_]+(\.[a-z0-9_]+)+$", "maxLength": LONGEST_EVENT_TYPE},
    )
    data: dict[str, Any] = Field(description="What receivers get as `data`.")
    customer: Text | None = Field(None, description="Whom it is about, for endpoints that want things in order.")
    subscription: Text | None = None
    occurred_at: AwareDatetime | None = Field(None, description="What receivers get as `timestamp`. Left out: now.")


class MessagePublished(BaseModel):
    id: str = Field(description="The `webhook-id` that receivers see.")
    deliveries: int = Field(description="How many endpoints it goes to.")


@router.post(
    "",
    status_code=201,
    responses={
        200: {
            "model": MessagePublished,
            "description": "It was published before, under this key.",
            "headers": {REPLAYED: {"schema": {"type": "string", "enum": ["true"]}}},
        }
    },
)
async def publish_message(
    env: EnvIn, caller: CallerIn, owner: OwnerIn, publisher: PublisherIn, key: Key, new: NewMessage, response: Response
) -> MessagePublished:
    """Publish an event to the endpoints that want it, once for each key."""
    if caller.merchant_id is None:
        await asyncio.to_thread(_check_merchant, env, owner)
    # Field by field: a copy of all that is in `data` would cost more than the rest.
    publication = Publication(new.event_type, new.data, new.customer, new.subscription, new.occurred_at)
    published = await publisher.answer(prepared(owner, key, publication, env.clock()))
    if published.replayed:
        response.status_code = 200
        response.headers[REPLAYED] = "true"
    return MessagePublished(id=published.message_id, deliveries=published.deliveries)
