"""The ingress's HTTP face: a FastAPI app for its documentation and probes, and the hot route as a plain ASGI endpoint
in front of it (FastAPI's request machinery costs four times the work of the whole route)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.health import Probes, probe_routes
from billhook.runtime.service import ASGIApp, Health
from services.ingress.commit import inbox_line
from services.ingress.ingest import IngestRoute
from services.ingress.openapi import describe
from services.ingress.sources import SourceDirectory


def build(env: Env, health: Health) -> ASGIApp:
    give_way()
    line = inbox_line(env.database, env.bell, env.metrics, env.clock)
    health.watch(lambda: line.problem)
    sources = SourceDirectory(env.database, env.vault)
    ingest = IngestRoute(line, sources, env.metrics, env.clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        line.stop()
        env.bell.close()

    app = FastAPI(title="billhook ingress", lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.router.routes.extend(probe_routes(Probes(env, health)))
    describe(app)

    async def ingress(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/v1/sources/") and path.endswith("/events"):
                await ingest(scope, receive, send)
                return
        await app(scope, receive, send)

    return ingress
