"""Messages to merchants, their deliveries, and every attempt at them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.store import deliveries, messages
from services.desk.refusals import not_found
from services.desk.terms import Bytes, CallerIn, EnvIn, Id, NewestFirst, Optional, Page, Text, page_of, row_id, shown

router = APIRouter(prefix="/v1", tags=["messages"])


class MessageQuery(NewestFirst):
    type: Text | Optional = Field(None, description="The event's public name, e.g. `invoice.paid`.")


class DeliveryQuery(NewestFirst):
    endpoint_id: Id | Optional = None
    message_id: Id | Optional = None
    state: Literal["due", "delivered", "dead"] | Optional = None


class MessageShown(BaseModel):
    id: str = Field(description="The `webhook-id` that receivers see.")
    merchant_id: str
    type: str
    object_kind: str
    object_id: str
    event_id: str = Field(description="The event that it came from.")
    occurred_at: datetime
    created_at: datetime


class DeliveryShown(BaseModel):
    id: str
    merchant_id: str
    message_id: str
    endpoint_id: str
    state: str = Field(description="due, delivered or dead.")
    due_at: datetime
    attempts: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


class AttemptShown(BaseModel):
    number: int
    started_at: datetime
    duration_ms: int
    outcome: str = Field(description="2xx to 5xx, or timeout, connect, tls, protocol, url.")
    status_code: int | None
    error: str | None
    response: Bytes = Field(description="The first bytes of what the endpoint answered.")


class DeliveryWhole(DeliveryShown):
    tries: list[AttemptShown]


class MessageWhole(MessageShown):
    body: Bytes = Field(description="The exact bytes that are signed and sent.")
    deliveries: list[DeliveryWhole]


def _message(row: Any) -> MessageShown:
    return MessageShown(**row, event_id=row["inbox_id"])


def _delivery(row: Any) -> DeliveryShown:
    return DeliveryShown(**row)


def _attempt(row: Any) -> AttemptShown:
    return AttemptShown(**{**row, "response": shown(bytes(row["response"]))})


@router.get("/messages")
def list_messages(env: EnvIn, caller: CallerIn, query: Annotated[MessageQuery, Query()]) -> Page[MessageShown]:
    """The newest first, without their bodies."""
    with env.database.read() as tx:
        found = messages.list_messages(
            tx,
            merchant_id=query.visible_to(caller),
            event_type=query.type,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _message, row_id)


@router.get("/messages/{message_id}")
def get_message(env: EnvIn, caller: CallerIn, message_id: Id) -> MessageWhole:
    """A message with its deliveries (the newest hundred) and every attempt."""
    with env.database.read() as tx:
        row = messages.get_message(tx, message_id, merchant_id=caller.merchant_id)
        if row is None:
            raise not_found("message")
        merchant_id = row["merchant_id"]
        sent = deliveries.list_deliveries(tx, merchant_id=merchant_id, message_id=message_id, limit=100)
        attempts = deliveries.list_attempts(tx, [delivery["id"] for delivery in sent], merchant_id=merchant_id)
    return MessageWhole(
        **_message(row).model_dump(),
        body=shown(bytes(row["body"])),
        deliveries=[
            DeliveryWhole(
                **_delivery(delivery).model_dump(),
                tries=[_attempt(attempt) for attempt in attempts if attempt["delivery_id"] == delivery["id"]],
            )
            for delivery in sent
        ],
    )


@router.get("/deliveries")
def list_deliveries(env: EnvIn, caller: CallerIn, query: Annotated[DeliveryQuery, Query()]) -> Page[DeliveryShown]:
    """The newest first."""
    with env.database.read() as tx:
        found = deliveries.list_deliveries(
            tx,
            merchant_id=query.visible_to(caller),
            endpoint_id=query.endpoint_id,
            message_id=query.message_id,
            state=query.state,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _delivery, row_id)
