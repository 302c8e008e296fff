"""The desk's ASGI application: publishing, which it takes from the moment it listens, and behind it the API."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Route

from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.health import Probes, probe_routes
from billhook.runtime.later import Later
from billhook.runtime.service import ASGIApp, Health
from services.desk.authentication import Callers
from services.desk.routes.publishing import PublishRoute, publishing_line
from services.desk.routes.standing import StandingRoute, standing_line


def build(env: Env, health: Health) -> ASGIApp:
    give_way()
    callers, line, standings = Callers(env, health.parts), publishing_line(env), standing_line(env)

    def routes(probes: Sequence[Route]) -> ASGIApp:
        from services.desk.api import api
        from services.desk.console.app import beside

        return beside(api(env, callers, probes), env)

    def close() -> None:
        line.stop()
        standings.stop()
        callers.line.stop()
        callers.use.stop()

    rest = Later(routes, probe_routes(Probes(env, health)), close)
    health.watch(lambda: line.problem or standings.problem or callers.line.problem or rest.problem)
    return PublishRoute(StandingRoute(rest, env, callers, standings), env, callers, line)
