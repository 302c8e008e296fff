"""Publishing: a merchant's own events, sent as billhook's are. `POST /v1/messages` is a plain ASGI route before all
others, as the ingress's is: FastAPI's machinery costs more than all that this route does.

    caller → size → JSON → what may be published → one durable commit → 201
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs

import msgspec

from billhook.actions.publishing import (
    KeyRevoked,
    NoMerchant,
    Publication,
    Published,
    Publisher,
    prepared,
    refuse_unreadable,
)
from billhook.actions.typed_json import refusing
from billhook.decoding import decoder_of
from billhook.errors import BodyRefused, Refused
from billhook.rules.endpoint_settings import LONGEST_EVENT_TYPE
from billhook.runtime.env import Env
from billhook.runtime.group_commit import GroupCommit, LineFull
from billhook.runtime.service import ASGIApp
from billhook.store.merchants import Caller
from billhook.store.publications import Prepared
from services.desk import headers, refusals
from services.desk.authentication import Callers, body_of, owner_of, refuse_compressed, refuse_two_keys, wrong_key
from services.desk.refusals import Refusal, not_found

if TYPE_CHECKING:
    from billhook.tracing import Span

PATH: Final = "/v1/messages"

LARGEST_BATCH: Final = 200
"""Events in one transaction."""

READ_BESIDE: Final = 64 * 1024
"""Bytes of a body from which on a thread reads it: a large one must not hold up the requests of others."""

_LINE = r"^[^\x00-\x1f\x7f]+$"
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_LINE)]


class NewMessage(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    event_type: Annotated[
        str,
        msgspec.Meta(
            description="A name of your own, of two words or more: `order.shipped`. The first is none of billhook's.",
            extra_json_schema={"pattern": r"^[a-z0-9_]+(\.[a-z0-9_]+)+$", "maxLength": LONGEST_EVENT_TYPE},
        ),
    ]
    data: Annotated[
        msgspec.Raw,
        msgspec.Meta(description="What receivers get as `data`, byte by byte.", extra_json_schema={"type": "object"}),
    ]
    customer: Annotated[
        Text | None, msgspec.Meta(description="Whom it is about, for endpoints that want things in order.")
    ] = None
    subscription: Text | None = None
    occurred_at: Annotated[
        Annotated[datetime, msgspec.Meta(tz=True)] | None,
        msgspec.Meta(description="What receivers get as `timestamp`. Left out: now."),
    ] = None


class MessagePublished(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(description="The `webhook-id` that receivers see.")]
    deliveries: Annotated[int, msgspec.Meta(description="How many endpoints it goes to.")]


_DECODER: Final = decoder_of(NewMessage)
_WANTED: Final = frozenset(
    (
        *(b"authorization", b"content-length", b"content-type", b"content-encoding"),
        *(b"transfer-encoding", b"idempotency-key", b"traceparent"),
    )
)


def publishing_line(env: Env) -> GroupCommit[Prepared, Published]:
    """Where publications wait: all of them share the next transaction."""
    return GroupCommit("publish", Publisher(env), largest=LARGEST_BATCH, size=lambda one: len(one.message.body))


class PublishRoute:
    """The ASGI endpoint before all others: answers its route, and passes on everything else."""

    def __init__(self, app: ASGIApp, env: Env, callers: Callers, line: GroupCommit[Prepared, Published]) -> None:
        self._app = app
        self._clock = env.clock
        self._callers = callers
        self._line = line
        self._limit = env.settings.message_limit_kib * 1024
        self._tracing = env.tracing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            published = await self._publish(scope, receive)
        except Exception as error:
            response = refusals.answer(error)
            response.raw_headers += headers.ALWAYS
            await response(scope, receive, send)
            return
        body = b'{"id":"%s","deliveries":%d}' % (published.message_id.encode(), published.deliveries)
        shown = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers.ALWAYS]
        if published.replayed:
            shown.append((headers.REPLAYED.lower().encode(), b"true"))
        status = 200 if published.replayed else 201
        await send({"type": "http.response.start", "status": status, "headers": shown})
        await send({"type": "http.response.body", "body": body})

    async def _publish(self, scope: Any, receive: Any) -> Published:
        given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _WANTED}
        refuse_two_keys(scope["headers"])
        authorization = given.get(b"authorization", "")
        remembered = self._callers.remembered(authorization)
        caller = remembered or await self._callers.of(authorization, scope)
        self._callers.admit(caller, changing=True, publishing=True)
        if self._tracing is None:
            return await self._admitted(scope, receive, given, caller, remembered, None)
        parent = given.get(b"traceparent")
        span = self._tracing.begin("publish", "server", parent, {"merchant_id": caller.merchant_id})
        published = None
        try:
            published = await self._admitted(scope, receive, given, caller, remembered, span)
            return published
        finally:
            _end(span, published)

    async def _admitted(
        self,
        scope: Any,
        receive: Any,
        given: Mapping[bytes, str],
        caller: Caller,
        remembered: Caller | None,
        span: Span | None,
    ) -> Published:
        authorization = given.get(b"authorization", "")
        traceparent = None if span is None else span.traceparent
        try:
            refuse_compressed(given)
            body = await body_of(receive, given.get(b"content-length", ""), self._limit)
            if len(body) > READ_BESIDE:
                new = await asyncio.to_thread(self._read, scope, given, body, caller, traceparent)
            else:
                new = self._read(scope, given, body, caller, traceparent)
        except (Refusal, Refused):
            if remembered is not None:  # a revoked key gets that answer and no other
                await self._callers.of(authorization, scope)
            raise
        try:
            return await self._line.submit(new)
        except KeyRevoked:
            self._callers.forget(authorization)
            raise wrong_key() from None
        except NoMerchant:
            raise not_found("merchant") from None
        except LineFull:
            raise Refusal(
                503, "busy", "More is waiting than can be stored in time. Send it again.", {"Retry-After": "1"}
            ) from None

    def _read(
        self, scope: Any, given: Mapping[bytes, str], body: bytes, caller: Caller, traceparent: str | None
    ) -> Prepared:
        asked = scope["query_string"]
        query = parse_qs(asked.decode("latin-1"), keep_blank_values=True) if asked else {}
        owner = owner_of(caller, query.get("merchant_id", [None])[-1])
        key = given.get(b"idempotency-key")
        if key is None:
            raise Refusal(422, "invalid", "header.Idempotency-Key: It is missing.")
        content_type = given.get(b"content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json" and not content_type.endswith("+json"):
            raise Refusal(422, "invalid", "body: It must be JSON, with `Content-Type: application/json`.")
        new = _decoded(body)
        publication = Publication(new.event_type, bytes(new.data), new.customer, new.subscription, new.occurred_at)
        now = self._clock()
        return prepared(owner, key, publication, now, api_key_id=caller.api_key_id, traceparent=traceparent)


def _end(span: Span, published: Published | None) -> None:
    if published is None:
        span.end("not published", {}, failed=True)
    else:
        about = {"message_id": published.message_id, "deliveries": published.deliveries}
        span.end("replayed" if published.replayed else "published", about)


def _decoded(body: bytes) -> NewMessage:
    if not body:
        raise Refusal(422, "invalid", "body: It is missing.")
    try:
        new = _DECODER.decode(body)
    except Exception as error:
        try:  # not around the decoding, which takes less time than a block like this
            with refusing():
                raise error
        except BodyRefused as refused:
            refuse_unreadable(body)
            raise Refusal(400, refused.code, str(refused)) from None
    if not bytes(new.data).startswith(b"{"):
        raise Refusal(422, "invalid", "body.data: It must be a JSON object.")
    return new
