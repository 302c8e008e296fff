"""What stands before every route under `/v1`: whose key is it, and is the body small enough. No route can forget it."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Final

from billhook.parts import Parts
from billhook.rules.addresses import Network
from billhook.rules.forwarding import asked_from, whose
from billhook.runtime.clock import Clock
from billhook.runtime.env import Env
from billhook.runtime.group_commit import GroupCommit
from billhook.runtime.request_body import BodyTooLarge, Disconnected, is_compressed, read_body
from billhook.runtime.service import ASGIApp
from billhook.store.database import witnessed
from billhook.store.merchants import OPERATOR, Caller, find_callers
from billhook.store.operator_actions import Act
from services.desk import headers
from services.desk.deeds import deed_of, reason_in
from services.desk.key_use import KeyUse
from services.desk.rates import Rate
from services.desk.refusals import Refusal, answer, not_found

LOOKING: Final = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

BODY_LIMIT = 64 * 1024

KEYS_REMEMBERED = 10_000

LONGEST_KEY = 256

MOST_KEYS = 200
"""Looked up with one question."""


TRIES_PER_SECOND = 10.0
"""Other keys that an address may try, each of which was wrong, beside one that it has used before. With the shortest
operator's key that is allowed, finding it would take longer than the world has."""


class Callers:
    """Finds the caller of a key, as the database has it at this moment."""

    def __init__(self, env: Env, parts: Parts) -> None:
        self._database = env.database  # opened here, before any thread of a request asks for it
        self._clock = env.clock
        self._operator_key = env.settings.operator_key
        self._proxies = env.proxies
        self._remembered: dict[bytes, Caller] = {}
        self._wrong: set[bytes] = set()
        self._tries = Rate(TRIES_PER_SECOND)
        self._requests = Rate(env.settings.requests_per_second)
        self.use = KeyUse(env, parts)
        self.line: GroupCommit[str, Caller | None] = GroupCommit("keys", self._find, largest=MOST_KEYS)

    async def of(self, authorization: str, scope: Any) -> Caller:
        """The caller. Raises `Refusal` for a key that is unknown, was revoked or is past its time, for none at all, and
        for trying many."""
        key = _bearer(authorization)
        digest = _digest(key)
        if digest in self._wrong:  # for good: keys are made by chance, and nobody gets one that was revoked again
            raise wrong_key()
        address = address_of(scope, self._proxies)
        if digest not in self._remembered and not self._tries.left(address):
            raise Refusal(
                429,
                "too_many_tries",
                "Too many wrong keys came from your address. Wait a second.",
                {"Retry-After": "1"},
            )
        caller = self._operator(key) or await self.line.submit(key)
        if caller is None:
            self.forget(authorization)
            self._tries.take(address)
            if len(self._wrong) >= KEYS_REMEMBERED:
                self._wrong.clear()
            self._wrong.add(digest)
            raise wrong_key()
        if len(self._remembered) >= KEYS_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = caller
        return caller

    def admit(self, caller: Caller, *, changing: bool, publishing: bool = False) -> None:
        """Raises `Refusal` where its key may not do this, or its merchant asks too often."""
        if not {"write": True, "publish": publishing, "read": not changing}[caller.scope]:
            may = "look, and change nothing" if caller.scope == "read" else "publish events, and nothing else"
            raise Refusal(403, "key_scope", f"This key may {may}.")
        if caller.merchant_id is not None and not self._requests.take(caller.merchant_id):
            raise Refusal(
                429,
                "too_many_requests",
                f"A merchant may ask the desk {self._requests.per_second:g} times a second. Wait a moment.",
                {"Retry-After": "1"},
            )
        self.use.note(caller)

    def remembered(self, authorization: str) -> Caller | None:
        """The caller as of the last look-up. A route that relies on it has to check that `api_key_id` is still good, in
        the transaction that does what the caller wants."""
        caller = self._remembered.get(_digest(_bearer(authorization)))
        if caller is None or (caller.expires_at is not None and caller.expires_at <= self._clock()):
            return None
        return caller

    def forget(self, authorization: str) -> None:
        self._remembered.pop(_digest(_bearer(authorization)), None)

    def _operator(self, key: str) -> Caller | None:
        own = self._operator_key.get_secret_value()
        # Digests have one length, so that the comparison tells nothing, not even how long the key is.
        return Caller(OPERATOR, None) if own and hmac.compare_digest(_digest(own), _digest(key)) else None

    def _find(self, keys: Sequence[str]) -> Sequence[Caller | None]:
        with self._database.read() as tx:
            callers = find_callers(tx, set(keys), self._clock())
        return [callers.get(key) for key in keys]


def _bearer(authorization: str) -> str:
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not 0 < len(key) <= LONGEST_KEY:
        raise _unauthorized("missing_key", "Send `Authorization: Bearer bh_…` (make a key with `billhook keys`).")
    return key


def refuse_two_keys(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """A proxy may have looked at the one, and we would go by the other."""
    if [name.lower() for name, _ in headers].count(b"authorization") > 1:
        raise Refusal(400, "two_keys", "Send one `Authorization` header.")


def refuse_compressed(given: Mapping[bytes, str]) -> None:
    """It would be read as it is, and called no JSON."""
    if is_compressed(given.get(b"content-encoding", ""), given.get(b"transfer-encoding", "")):
        raise Refusal(415, "compressed", "Send the body without `Content-Encoding`.")


def owner_of(caller: Caller, merchant_id: str | None) -> str:
    """The merchant that the caller may write for and does, if it says `merchant_id`."""
    if caller.merchant_id is None and merchant_id is None:
        raise Refusal(422, "merchant_missing", "merchant_id: the operator's key must say for which merchant.")
    wanted = merchant_id or caller.merchant_id
    if wanted is None or caller.merchant_id not in (None, wanted):
        raise not_found("merchant")
    return wanted


def wrong_key() -> Refusal:
    return _unauthorized("wrong_key", "This key is unknown, was revoked, or is past its time.")


class Authentication:
    """An ASGI middleware: puts the caller into the request's state, and sees to it that every error has our shape."""

    def __init__(self, app: ASGIApp, callers: Callers, clock: Clock) -> None:
        self._app = app
        self._callers = callers
        self._clock = clock

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        answering = False

        async def guarded_send(message: Any) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                message = {**message, "headers": headers.completed(message["headers"])}
            await send(message)

        try:
            given = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            refuse_two_keys(scope["headers"])
            caller = await self._callers.of(given.get(b"authorization", ""), scope)
            self._callers.admit(caller, changing=scope["method"] not in LOOKING)
            refuse_compressed(given)
            body = await body_of(receive, given.get(b"content-length", ""), body_limit(scope["path"]))
            scope.setdefault("state", {})["caller"] = caller
            with self._noted(caller, scope, body):
                await self._app(scope, _again(body, receive), guarded_send)
        except Exception as error:
            if answering:
                raise  # half an answer cannot become another one: the connection is closed
            await answer(error)(scope, receive, guarded_send)

    def _noted(self, caller: Caller, scope: Any, body: bytes) -> AbstractContextManager[None]:
        """What the operator changes is written down. What merchants do with their own is theirs."""
        if caller.merchant_id is not None or scope["method"] in LOOKING:
            return nullcontext()
        deed = deed_of(scope["method"], scope["path"], scope["query_string"])
        by = f"key {caller.name}" if caller.api_key_id else caller.key_id
        detail = {"key_id": caller.api_key_id} if caller.api_key_id else {}
        if (reason := reason_in(body)) is not None:
            detail["reason"] = reason
        return witnessed(Act(deed.action, by=by, now=self._clock, subjects=deed.subjects, detail=detail))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _unauthorized(code: str, message: str) -> Refusal:
    return Refusal(401, code, message, {"WWW-Authenticate": 'Bearer realm="billhook"'})


def address_of(scope: Any, proxies: Sequence[Network]) -> str:
    """Whose tries these are: of who is connected, or asked one of our `proxies`. Others may say what they like."""
    client = scope.get("client")
    said = (value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")
    return whose(asked_from(str(client[0]) if client else "", [*said] if proxies else (), proxies))


@cache
def _larger() -> Sequence[tuple[re.Pattern[str], int]]:
    """Where bodies may be larger, and how large."""
    # What draws documents takes long to import, and publishing, which needs none of it, waits for this module.
    from billhook.actions.templates import LARGEST_TEMPLATE
    from billhook.documents.logo import LARGEST_LOGO

    return (
        (re.compile(r"/v1/invoices(/.*)?"), 8 * 1024 * 1024),  # ten thousand lines, of 800 bytes each
        (re.compile(r"/v1/merchants/[^/]+/logo"), LARGEST_LOGO),
        # In JSON a quote is two bytes, a `<` may be six.
        (re.compile(r"/v1/merchants/[^/]+/templates"), 4 * LARGEST_TEMPLATE),
    )


def body_limit(path: str) -> int:
    return next((limit for pattern, limit in _larger() if pattern.fullmatch(path)), BODY_LIMIT)


async def body_of(receive: Any, announced: str, limit: int) -> bytes:
    try:
        return await read_body(receive, announced, limit)
    except BodyTooLarge:
        raise Refusal(413, "too_large", f"The body may have at most {limit // 1024} KiB here.") from None
    except Disconnected:
        raise Refusal(400, "disconnected", "The request ended before its body did.") from None


def _again(body: bytes, receive: Any) -> Any:
    """A `receive` that gives the body that was read already, then what else comes."""
    given = False

    async def next_message() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
