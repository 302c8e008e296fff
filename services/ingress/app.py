"""The ingress's HTTP face: the hot route as a plain ASGI endpoint, and behind it a FastAPI app for its documentation
(FastAPI's request machinery costs four times the work of the whole route)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.routing import Route

from billhook.runtime.api_pages import api_page
from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.health import Probes, probe_routes
from billhook.runtime.later import Later
from billhook.runtime.service import ASGIApp, Health
from services.ingress.commit import inbox_line
from services.ingress.ingest import IngestRoute
from services.ingress.sources import SourceDirectory


def build(env: Env, health: Health) -> ASGIApp:
    give_way()
    line = inbox_line(env.database, env.bell, env.metrics, env.clock, health, env.tracing)
    ingest = IngestRoute(line, SourceDirectory(env.database, env.vault, env.clock), env.metrics, env.clock, env.tracing)

    def close() -> None:
        line.stop()
        env.bell.close()

    rest = Later(_documented, probe_routes(Probes(env, health)), close)
    health.watch(lambda: line.problem or rest.problem)

    async def ingress(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/v1/sources/") and path.endswith("/events"):
                await ingest(scope, receive, send)
                return
        await rest(scope, receive, send)

    return ingress


def _documented(probes: Sequence[Route]) -> ASGIApp:
    from fastapi import FastAPI

    from services.ingress.openapi import describe

    app = FastAPI(title="billhook ingress", docs_url=None, redoc_url=None)
    app.router.routes.extend([*api_page("billhook ingress"), *probes])
    describe(app)
    return app
