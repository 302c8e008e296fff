"""The console's application: the operators' pages at `/`, beside the API and by the same actions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from billhook.runtime.env import Env
from billhook.runtime.service import ASGIApp
from services.desk.console import (
    dead_letters,
    deliveries,
    documents,
    dunning,
    endpoints,
    events,
    findings,
    invoices,
    merchant_pages,
    overview,
    passkeys,
    people,
    queues,
    sign_in,
)
from services.desk.console.rendering import STATIC, page, static
from services.desk.console.session import NotSignedIn
from services.desk.handlers import HANDLED, told
from services.desk.rates import Rate

PAGES = (
    *(sign_in, overview, events, invoices, documents, deliveries, endpoints),
    *(dunning, findings, dead_letters, queues, people, passkeys, merchant_pages),
)

_OF_THE_API = re.compile(r"/(v1|i|docs|openapi\.json|livez|readyz|metrics)(/.*)?", re.DOTALL)


def beside(api: ASGIApp, env: Env) -> ASGIApp:
    """The API, and for all other paths the console."""
    console = build(env)

    async def desk(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] != "http" or _OF_THE_API.fullmatch(scope["path"])
        await (api if ours else console)(scope, receive, send)

    return desk


def build(env: Env) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.env = env
    app.state.traffic = overview.InAndOut()
    app.state.tries = Rate(sign_in.TRIES_PER_SECOND)
    app.router.routes.extend(_routes())
    app.add_api_route("/console/{name}", _static, methods=["GET", "HEAD"])
    app.add_exception_handler(NotSignedIn, _to_sign_in)
    for kind in (*HANDLED, Exception):  # what nobody expected is raised once more after its page, and so in the log
        app.add_exception_handler(kind, _refuse)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """The same for every desk of a process, in one list: a router within a router is looked through twice."""
    return tuple(route for part in PAGES for route in part.router.routes)


def _static(name: str) -> Response:
    if name not in STATIC:
        return Response("There is no such file.", 404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(static(name), media_type=STATIC[name], headers=headers)


async def _to_sign_in(request: Request, _: Exception) -> Response:
    """To the page of the sign-in, and from there back to where one wanted to go."""
    wanted = _wanted(request)
    path = "/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted)}"
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


def _wanted(request: Request) -> str:
    """A page, with what was asked of it; not the part of one that asks for itself again and again."""
    if request.method != "GET":
        return "/"
    at = urlsplit(request.headers.get("hx-current-url", "") if "hx-request" in request.headers else str(request.url))
    whole = f"{at.path}?{at.query}" if at.query else at.path
    return sign_in.inside(whole if len(whole) <= sign_in.LONGEST_NEXT else at.path[: sign_in.LONGEST_NEXT])


async def _refuse(request: Request, error: Exception) -> Response:
    refusal = told(error)
    response = page(request, "refusal.html", refusal.status, refusal=refusal)
    response.headers.update(refusal.headers or {})
    return response
