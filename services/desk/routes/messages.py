"""Messages to merchants, their deliveries, and every attempt at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from billhook.store import deliveries, messages
from billhook.store.database import Tx
from billhook.store.merchants import Caller
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
    first_that_fit,
    page_of,
    row_id,
)
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1", tags=["messages"])

MOST_TRIES: Final = 20
"""Attempts that are shown with a delivery: each replay brings more of them, without an end."""

TRIES_OF_MANY: Final = 3
"""And with each of a message's."""


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


class AttemptQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=100, description="A page ends earlier where what is on it is large.")
    before: int | Optional = Field(None, ge=1, le=2**31 - 1, description="The `next` of the page before.")


class DeliveryWhole(DeliveryShown):
    tries: list[AttemptShown] = Field(description="The newest attempts, in the order in which they were made.")
    earlier_tries: bool = Field(description="There are attempts before these: `/v1/deliveries/{id}/attempts` has all.")


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


def _whole(delivery: Any, tries: list[AttemptShown], *, earlier: bool) -> DeliveryWhole:
    return DeliveryWhole(**_delivery(delivery).model_dump(), tries=tries[::-1], earlier_tries=earlier)


def _wholes(sent: Sequence[Any], attempts: Sequence[Any]) -> list[DeliveryWhole]:
    """The attempts are the newest of each delivery, one more than is shown."""
    mine = {row["id"]: [one for one in attempts if one["delivery_id"] == row["id"]][::-1] for row in sent}
    wanted = [attempt for tries in mine.values() for attempt in tries[:TRIES_OF_MANY]]
    shown = first_that_fit(wanted, _attempt)
    fit = {id(attempt): one for attempt, one in zip(wanted, shown, strict=False)}
    wholes = []
    for row in sent:
        tries = [fit[id(attempt)] for attempt in mine[row["id"]] if id(attempt) in fit]
        wholes.append(_whole(row, tries, earlier=len(tries) < len(mine[row["id"]])))
    return wholes


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
    """A message with its deliveries (the newest hundred), and the newest attempts at each."""
    with env.database.read() as tx:
        row = messages.get_message(tx, message_id, merchant_id=caller.merchant_id)
        if row is None:
            raise not_found("message")
        merchant_id = row["merchant_id"]
        sent = deliveries.list_deliveries(tx, merchant_id=merchant_id, message_id=message_id, limit=100)
        ids = [delivery["id"] for delivery in sent]
        attempts = deliveries.list_attempts(tx, ids, merchant_id=merchant_id, latest=TRIES_OF_MANY + 1)
    return MessageWhole(
        **_message(row).model_dump(),
        body=bytes_shown(bytes(row["body"])),
        deliveries=_wholes(sent, attempts),
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
    """A delivery with its newest attempts: what an endpoint's developer needs to see."""
    with env.database.read() as tx:
        row = _find_delivery(tx, caller, delivery_id)
        merchant_id = row["merchant_id"]
        found = deliveries.newest_attempts(tx, delivery_id, merchant_id=merchant_id, limit=MOST_TRIES + 1)
    tries = first_that_fit(found[:MOST_TRIES], _attempt)
    return _whole(row, tries, earlier=len(found) > len(tries))


@router.get("/deliveries/{delivery_id}/attempts")
def list_attempts(
    env: EnvIn, caller: CallerIn, delivery_id: Id, query: Annotated[AttemptQuery, Query()]
) -> Page[AttemptShown]:
    """Every attempt at a delivery, the newest first."""
    with env.database.read() as tx:
        owner = _find_delivery(tx, caller, delivery_id)["merchant_id"]
        found = deliveries.newest_attempts(
            tx, delivery_id, merchant_id=owner, before=query.before, limit=query.limit + 1
        )
    return page_of(found, query.limit, _attempt, lambda row: str(row["number"]))


def _find_delivery(tx: Tx, caller: Caller, delivery_id: str) -> Any:
    row = deliveries.get_delivery(tx, delivery_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found("delivery")
    return row
