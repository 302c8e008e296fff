"""The HTTP side: a key, an idempotency key, a fault perhaps, a route, and an answer in Stripe's words."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from billhook_testing.fake_stripe import agenda, errors
from billhook_testing.fake_stripe.errors import ApiError
from billhook_testing.fake_stripe.faults import ApiFaultKind, Fault, Switches
from billhook_testing.fake_stripe.idempotency import Answer, Keys
from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.resources import INCLUDES, ROUTES
from billhook_testing.fake_stripe.routes import Route, expanded, refuse_unknown
from billhook_testing.fake_stripe.world import API_VERSION, Json, Request, World, as_sent, encode

TRANSPORT = "fake_stripe.transport"
"""Where the connection's transport stands in the scope, so that a fault can cut it."""
API_FAULTS = get_args(ApiFaultKind)

Control = Callable[..., Any]


class Api:
    """The Starlette app over the worlds. `lock` is held by whoever touches one, here or in Python."""

    def __init__(
        self, worlds: dict[str, World], api_key: str, switches: Switches, controls: dict[str, Control]
    ) -> None:
        """`worlds` by account; the empty one is the platform's own."""
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._worlds = worlds
        self._api_key = api_key
        self._switches = switches
        self._controls = controls
        self._keys = Keys()
        routes = [HttpRoute(route.path, self._endpoint(route), methods=[route.method]) for route in ROUTES]
        routes.append(HttpRoute("/_fake/{control}", self._control, methods=["POST"]))
        routes.append(HttpRoute("/{path:path}", self._unknown, methods=["GET", "POST", "DELETE"]))
        self.app = Starlette(routes=routes)

    def _endpoint(self, route: Route) -> Callable[[HttpRequest], Any]:
        async def endpoint(request: HttpRequest) -> Response:
            body = (await request.body()).decode()
            account = self._account(request)
            fault = self._switches.take(request.url.path, API_FAULTS, request.method, account)
            if fault is not None and fault.kind == "timeout_before":
                return await self._vanish(request, fault)
            answer = self._answer(route, request, body, fault)
            if fault is not None and fault.kind == "timeout_after":
                return await self._vanish(request, fault)
            return Response(answer.body, answer.status, dict(answer.headers), "application/json")

        return endpoint

    async def _unknown(self, request: HttpRequest) -> Response:
        message = f"Unrecognized request URL ({request.method}: {request.url.path})."
        return Response(encode(errors.invalid(message).body), 404, media_type="application/json")

    async def _vanish(self, request: HttpRequest, fault: Fault) -> Response:
        """Let the connection hang, then cut it without an answer."""
        until = time.monotonic() + (fault.hang_seconds or 0)
        gone = False
        while not gone and time.monotonic() < until and not self.closing.is_set():
            with suppress(TimeoutError):
                gone = (await asyncio.wait_for(request.receive(), 0.05))["type"] == "http.disconnect"
        request.scope[TRANSPORT].abort()
        while not gone:
            gone = (await request.receive())["type"] == "http.disconnect"
        return Response()

    def _answer(self, route: Route, request: HttpRequest, body: str, fault: Fault | None) -> Answer:
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        with self.lock:
            account = self._account(request)
            world = self._worlds.get(account, self._worlds[""])
            request_id = world.new_id("req")
            headers = [("request-id", request_id), ("stripe-version", API_VERSION)]
            if key:
                headers.append(("idempotency-key", key))
            kept = False
            fingerprint = ""
            try:
                self._check_key(request.headers.get("authorization", ""))
                if account not in self._worlds:
                    raise errors.no_account(account)
                if fault is not None and fault.kind == "rate_limit":
                    raise errors.rate_limited(fault.retry_after)
                agenda.advance_to(world, world.now())
                params = Params.parse(request.url.query, body)
                fingerprint = json.dumps([account, request.method, request.url.path, params.values], sort_keys=True)
                if key:
                    kept_answer = self._keys.replay(key, fingerprint, world.now())
                    if kept_answer is not None:
                        return kept_answer
                _befall(fault, key, request.url.path)
                world.request = Request(request_id, key)
                if fault is not None and fault.kind == "circle":
                    params.values.pop("starting_after", None)
                answer = _spoiled(self._call(world, route, params, dict(request.path_params)), fault)
                status, kept = 200, True
            except ApiError as error:
                status, answer, kept = error.status, error.body, error.kept
                headers += error.headers.items()
            finally:
                world.request = Request()
            result = Answer(status, encode(answer), tuple(headers))
            if key and kept:
                self._keys.keep(key, fingerprint, result, world.now())
            return result

    def _call(self, world: World, route: Route, params: Params, ids: dict[str, str]) -> Json:
        refuse_unknown(params, route.accepts)
        answer = route.handler(world, params, ids)
        sent: Json = as_sent(expanded(world, answer, params.texts("expand"), INCLUDES))
        return sent

    def _account(self, request: HttpRequest) -> str:
        """The connected account that is asked about. An organization's key says it in another header."""
        name = "stripe-context" if self._api_key.startswith("sk_org_") else "stripe-account"
        return request.headers.get(name, "")

    def _check_key(self, authorization: str) -> None:
        given = authorization.removeprefix("Bearer ")
        if given != self._api_key:
            raise errors.bad_key(f"{given[:7]}…" if given else "(none)")

    async def _control(self, request: HttpRequest) -> Response:
        """One of the fake's own switches, by name, with its arguments as a JSON object."""
        control = self._controls.get(request.path_params["control"])
        if control is None:
            return await self._unknown(request)
        arguments = json.loads(await request.body() or b"{}")
        try:
            # In a thread: a control may send webhooks to a receiver that asks this API before it answers.
            answer = await run_in_threadpool(control, **arguments)
        except ApiError as error:
            return Response(encode(error.body), error.status, media_type="application/json")
        except (TypeError, ValueError, TimeoutError) as error:
            return Response(encode(errors.invalid(str(error)).body), 400, media_type="application/json")
        return Response(encode(answer), media_type="application/json")


def _spoiled(answer: Json, fault: Fault | None) -> Json:
    """A page with one of the faults of lists."""
    if fault is None or answer.get("object") != "list" or not answer["data"]:
        return answer
    first, *rest = answer["data"]
    spoiled = {
        "repeat": [first, first, *rest],
        "skip": rest,
        "unknown_version": [
            {"id": first["id"], "object": first["object"], "created": first["created"], "metadata": []},
            *rest,
        ],
    }
    return {**answer, "data": spoiled.get(fault.kind, answer["data"])}


def _befall(fault: Fault | None, key: str | None, path: str) -> None:
    if fault is not None and fault.kind == "forbidden":
        raise errors.forbidden(path)
    if fault is not None and fault.kind == "conflict":
        raise errors.key_in_use(key or "")
    if fault is not None and fault.kind == "server_error":
        raise errors.server_error()
