"""A customer's standing, which a product asks for on every request of its own. `GET /v1/customers/{id}/standing` is a
plain ASGI route before all others, as publishing is, and all questions that wait are answered by one read, which also
sees whether their keys are still good.

What is not plain (another method, a query that has to be refused, a connected account) goes on to the API, which
documents the route and gives the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.standing import Debt, etag, standing_of
from billhook.runtime.clock import Clock
from billhook.runtime.env import Env
from billhook.runtime.group_commit import GroupCommit, LineFull
from billhook.runtime.service import ASGIApp
from billhook.store.debts import debts_of_customers
from services.desk import headers, refusals
from services.desk.authentication import Callers, refuse_two_keys, wrong_key
from services.desk.refusals import Refusal, not_found

_PATH: Final = re.compile(r"/v1/customers/([A-Za-z0-9_.:-]{1,255})/standing")
_WANTED: Final = (b"authorization", b"if-none-match")
_QUERY: Final = re.compile(rb"(?:source_id=([A-Za-z0-9_]{1,100}))?")

LARGEST_BATCH: Final = 200
"""Questions that one read answers."""


class Question(NamedTuple):
    merchant_id: str | None
    """That asks; None is the operator."""
    customer_id: str
    """The book's."""
    api_key_id: str | None
    """To be looked up beside it; None where it was before."""


class KeyRevoked(Exception):
    """The key is not good any more."""


Line = GroupCommit[Question, list[Debt] | None]
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def standing_line(env: Env) -> Line:
    """Where questions wait."""

    def find(asked: Sequence[Question]) -> Sequence[list[Debt] | Exception | None]:
        keys = {one.api_key_id for one in asked if one.api_key_id is not None}
        wanted = {(one.merchant_id, one.customer_id) for one in asked}
        found = debts_of_customers(env.database, wanted, env.clock(), keys=keys)
        good = {None, *found.good_keys}
        return [found.of[one.merchant_id, one.customer_id] if one.api_key_id in good else KeyRevoked() for one in asked]

    return GroupCommit("standings", find, largest=LARGEST_BATCH)


def answered(customer_id: str, debts: Sequence[Debt], tags: str | None, clock: Clock) -> Answer:
    """Status, headers and body. `tags` are those of answers before, as `If-None-Match` has them."""
    standing = standing_of(debts, clock())
    tag = f'"{etag(standing)}"'
    shown = [(b"etag", tag.encode()), (b"cache-control", b"private, no-cache")]
    if tags is not None and tag in {part.strip() for part in tags.split(",")}:
        return 304, shown, b""
    body = msgspec.json.encode({"customer_id": customer_id, **msgspec.to_builtins(standing)})
    about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return 200, [*about, *shown], body


class StandingRoute:
    """The ASGI endpoint before all others: answers its route, and passes on everything else."""

    def __init__(self, app: ASGIApp, env: Env, callers: Callers, line: Line) -> None:
        self._app = app
        self._clock = env.clock
        self._callers = callers
        self._line = line

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        named = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        query = _QUERY.fullmatch(scope["query_string"]) if named else None
        if named is None or query is None:
            await self._app(scope, receive, send)
            return
        customer_id, source_id = named[1], query[1]
        if source_id is not None:
            customer_id = book_id(source_id.decode(), "", Customer(external_id=customer_id))
        try:
            status, shown, body = await self._answer(scope, customer_id)
        except Exception as error:
            response = refusals.answer(error)
            response.raw_headers += headers.ALWAYS
            await response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": headers.completed(shown)})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Any, customer_id: str) -> Answer:
        refuse_two_keys(scope["headers"])
        given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _WANTED}
        authorization = given.get(b"authorization", "")
        remembered = self._callers.remembered(authorization)
        try:
            caller = remembered or await self._callers.of(authorization, scope)
            self._callers.admit(caller, changing=False)
            key = None if remembered is None else remembered.api_key_id
            debts = await self._line.submit(Question(caller.merchant_id, customer_id, key))
        except KeyRevoked:
            self._callers.forget(authorization)
            raise wrong_key() from None
        except LineFull:
            raise Refusal(503, "busy", "More is waiting than can be read in time.", {"Retry-After": "1"}) from None
        if debts is None:
            raise not_found("customer")
        return answered(customer_id, debts, given.get(b"if-none-match"), self._clock)
