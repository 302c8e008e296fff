"""Messages to merchants, their deliveries, and every attempt at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.store import deliveries, messages
from services.desk.dependencies import (
    Bytes,
    CallerIn,
    EnvIn,
    Id,
    NewestFirst,
    Optional,
    Page,
    Text,
    bytes_shown,
    page_of,
    row_id,
)
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1", tags=["messages"])


class MessageQuery(NewestFirst):
    type: Text | Optional = Field(None, description="The event's public name, e.g. `invoice.paid`.")


class DeliveryQuery(NewestFirst):
    endpoint_id: Id | Optional = None
    message_id: Id | Optional = None
    state: Literal["due", "delivered", "held", "canceled", "expired", "dead"] | Optional = None


class MessageShown(BaseModel):
    id: str = Field(description="The `webhook-id` that receivers see.")
    merchant_id: str
    type: str
    object_kind: str = Field(description="A kind of the book, endpoint, or publication: what you published yourself.")
    object_id: str = Field(description="Its id; of a publication, the idempotency key.")
    event_id: str | None = Field(description="The event that it came from; null for what no provider's event caused.")
    customer: str | None = Field(description="The provider's id of the customer it is about.")
    subscription: str | None
    occurred_at: datetime
    created_at: datetime
    pruned_at: datetime | None = Field(description="When its body was deleted, as its time was over.")


class DeliveryShown(BaseModel):
    id: str
    merchant_id: str
    message_id: str
    endpoint_id: str
    state: str = Field(
        description="due, delivered, held (its endpoint is disabled), canceled (it was deleted), expired (the body was"
        " deleted first) or dead."
    )
    lane: str = Field(description="fresh (a first attempt), retry or replay.")
    due_at: datetime
    attempts: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


class Header(BaseModel):
    name: str
    value: str


class AttemptShown(BaseModel):
    number: int = Field(description="From 1, through all replays.")
    started_at: datetime
    duration_ms: int
    outcome: str = Field(
        description="2xx to 5xx; else timeout, dns, refused (by billhook: an address it does not connect to), connect,"
        " tls, reset, protocol or url; or cut: billhook's process ended first, so that nobody knows whether it arrived."
    )
    url: str | None = Field(description="Where it went, as the endpoint was set then.")
    request_headers: list[Header] = Field(description="As they were sent, your own ones without their values.")
    status_code: int | None
    error: str | None
    response_headers: list[Header] = Field(description="Those of the answer, as they came.")
    response: Bytes = Field(description="The first bytes of what the endpoint answered.")


class DeliveryWhole(DeliveryShown):
    tries: list[AttemptShown]


class MessageWhole(MessageShown):
    body: Bytes = Field(description="The exact bytes that are signed and sent.")
    deliveries: list[DeliveryWhole]


def _message(row: Any) -> MessageShown:
    return MessageShown(**row, event_id=None if row["inbox_id"] == row["id"] else row["inbox_id"])


def _delivery(row: Any) -> DeliveryShown:
    return DeliveryShown(**row)


def _attempt(row: Any) -> AttemptShown:
    headers = {
        field: [Header(name=name, value=value) for name, value in row[field] or ()]
        for field in ("request_headers", "response_headers")
    }
    return AttemptShown(**{**row, **headers, "response": bytes_shown(bytes(row["response"]))})


def _whole(delivery: Any, attempts: Sequence[Any]) -> DeliveryWhole:
    return DeliveryWhole(
        **_delivery(delivery).model_dump(),
        tries=[_attempt(attempt) for attempt in attempts if attempt["delivery_id"] == delivery["id"]],
    )


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
        body=bytes_shown(bytes(row["body"])),
        deliveries=[_whole(delivery, attempts) for delivery in sent],
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


@router.get("/deliveries/{delivery_id}")
def get_delivery(env: EnvIn, caller: CallerIn, delivery_id: Id) -> DeliveryWhole:
    """A delivery with every attempt: what an endpoint's developer needs to see."""
    with env.database.read() as tx:
        row = deliveries.get_delivery(tx, delivery_id, merchant_id=caller.merchant_id)
        if row is None:
            raise not_found("delivery")
        return _whole(row, deliveries.list_attempts(tx, [delivery_id], merchant_id=row["merchant_id"]))
