"""The desk's HTTP face: the gate, the routes, and the document that describes them."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from billhook.errors import ANSWER_SCHEMA
from billhook.rules.book import KINDS
from billhook.runtime.env import Env
from billhook.runtime.health import Probes, probe_routes
from billhook.runtime.service import ASGIApp, Health
from services.desk import (
    dead_letters,
    endpoint_actions,
    endpoints,
    entries,
    events,
    invoices,
    merchants,
    messages,
    publishing,
    refusals,
    replays,
    sources,
)
from services.desk.gate import Gate
from services.desk.terms import BEARER

SUBJECTS = (
    *(merchants, sources, endpoints, endpoint_actions, events, invoices, entries, messages, publishing),
    *(replays, dead_letters),
)


def build(env: Env, health: Health) -> ASGIApp:
    app = desk(env)
    app.router.routes.extend(probe_routes(Probes(env, health)))

    async def service(scope: Any, receive: Any, send: Any) -> None:
        health.tick()
        await app(scope, receive, send)

    return service


def desk(env: Env) -> FastAPI:
    """The API itself."""
    app = FastAPI(title="billhook desk", version="1", docs_url="/docs", redoc_url=None, redirect_slashes=False)
    app.state.env = env
    for subject in SUBJECTS:
        app.include_router(subject.router, dependencies=[BEARER], responses=refusals.DECLARED)
    refusals.install(app)
    app.add_middleware(Gate, env=env)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Add to the document what the book's values say of their own fields."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = document["components"]["schemas"]
            (*references, invoice), fields = _book_schemas()
            schemas.update(fields)
            schemas["Error"] = ANSWER_SCHEMA
            schemas["EntryShown"]["anyOf"] = [*references, invoice]
            schemas["InvoiceShown"]["allOf"] = [invoice]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _book_schemas() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A reference for each kind, the invoice's last, and the schemas they refer to."""
    kinds = sorted(KINDS.values(), key=lambda value: value.kind == "invoice")
    references, fields = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return list(references), fields
