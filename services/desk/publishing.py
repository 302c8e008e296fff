"""Publishing: a merchant's own events, sent as billhook's are."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from billhook.rules.endpoint_settings import LONGEST_EVENT_TYPE
from billhook.runtime.publishing import Publication, publish
from services.desk.terms import EnvIn, OwnerIn, Text, known_merchant

router = APIRouter(prefix="/v1/messages", tags=["messages"])

REPLAYED = "Idempotent-Replayed"

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        description="Yours for this event. The same request under the same key is answered again, and published once.",
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    ),
]


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
def publish_message(env: EnvIn, owner: OwnerIn, key: Key, new: NewMessage, response: Response) -> MessagePublished:
    """Publish an event to the endpoints that want it, once for each key."""
    with env.database.read() as tx:
        known_merchant(tx, owner)
    published = publish(env, owner, key, Publication(**new.model_dump()))
    if published.replayed:
        response.status_code = 200
        response.headers[REPLAYED] = "true"
    return MessagePublished(id=published.message_id, deliveries=published.deliveries)
