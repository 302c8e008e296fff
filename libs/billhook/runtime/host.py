"""Hosting one service in this process: start, serve, drain on SIGTERM or Ctrl-C, leave."""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
from typing import TYPE_CHECKING

from billhook import logs
from billhook.errors import SettingsError
from billhook.runtime import descriptors
from billhook.runtime.env import Env
from billhook.runtime.health import Probes, ProbeServer
from billhook.runtime.ports import cannot_listen, listening_port
from billhook.runtime.service import Health, Service
from billhook.runtime.stop import Stop
from billhook.runtime.vitals import exporting_vitals
from billhook.store.database import is_store_away
from billhook.store.fitness import MOST_SKEW_SECONDS, clock_skew, misfit, skew_said

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often a process looks whether its bell and its lines live. A part that dies is heard at once."""


def run_service(service: Service, env: Env) -> int:
    """Run until told to stop; the exit code is 0 when everything in hand was finished."""
    logs.set_up(service.name, env.settings.log_level)
    env.service = service.name
    limit = descriptors.raise_limit()
    try:
        _look_at_database(env)
        with exporting_vitals(env, service.name):
            return _serve(service, env, limit) if service.app is not None else _consume(service, env)
    finally:
        env.close()


def _look_at_database(env: Env) -> None:
    """Raises `SettingsError` where this code cannot work with the schema. A database that is away is waited for."""
    try:
        problem = misfit(env.database)
        skew = clock_skew(env.database, env.clock)
    except Exception as error:
        if not is_store_away(error):
            raise
        log.warning("the schema was not looked at")
        return
    if problem is not None:
        raise SettingsError(problem)
    if abs(skew) > MOST_SKEW_SECONDS:
        log.warning("the clocks differ", extra={"reason": skew_said(skew)})


def _consume(service: Service, env: Env) -> int:
    assert service.start is not None
    stop = Stop()
    stop.on_signals()
    health = Health()
    try:
        probes = ProbeServer(Probes(env, health), env.settings.host, listening_port(env.settings, service.name))
    except OSError as error:
        raise cannot_listen(env.settings, service.name, error) from error
    health.watch(env.bell.problem)
    health.parts.when_one_dies(stop.set)
    running = service.start(env, health)
    _spare_the_collector()
    log.info("started", extra={"port": probes.port})
    while health.problem is None and not stop.wait(LOOK_SECONDS):
        pass
    if (problem := health.problem) is not None:
        log.critical("a part of the process has died, so it ends", extra={"reason": problem})
    drained = running.stop(env.settings.drain_seconds)
    probes.close()
    log.info("stopped", extra={"drained": drained})
    return 0 if drained and problem is None else 1


def _spare_the_collector() -> None:
    """The modules are here to stay, and work is hundreds of small values that die by themselves: looking through all of
    them after every 700 new ones is a twentieth of a busy process's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _serve(service: Service, env: Env, limit: int) -> int:
    import uvicorn

    from billhook.runtime.calm_server import CalmServer
    from billhook.runtime.connections import MOST_CONNECTIONS, Bounds

    assert service.app is not None
    port = listening_port(env.settings, service.name)
    health = Health()
    health.watch(env.bell.problem)
    bounds = Bounds(env.metrics, connections=min(MOST_CONNECTIONS, max(16, limit - descriptors.SPARE)))
    config = uvicorn.Config(
        service.app(env, health),
        host=env.settings.host,
        port=port,
        loop="uvloop",
        http=bounds.protocol,
        ws="none",
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(env.settings.drain_seconds),
        server_header=False,
        proxy_headers=False,  # `rules/forwarding.py` reads them, of proxies that are trusted
    )
    server = CalmServer(config)
    _spare_the_collector()
    logging.getLogger("uvicorn.error").addFilter(is_worth_a_line)
    # When uvicorn has drained it raises the signal once more for whoever was there before it; by default that would
    # end this process as if it had not drained at all.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_end_with_its_parts, args=(health, server), name="watch", daemon=True).start()
    server.run()
    if bounds.cut_off:
        log.error("requests were cut off: they took longer than the drain", extra={"count": bounds.cut_off})
    return 0 if server.started and health.problem is None and not bounds.cut_off else 1


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """What uvicorn says. It counts what it cancels at the end of a drain in words of its own, where ours come later."""
    return not str(record.msg).startswith("Cancel ")


def server_modules() -> None:
    """Import what a server needs and other services do not, for a process that will be forked into one."""
    import uvicorn.lifespan.on
    import uvicorn.loops.uvloop  # noqa: F401

    import billhook.runtime.calm_server
    import billhook.runtime.connections  # noqa: F401


def _end_with_its_parts(health: Health, server: uvicorn.Server) -> None:
    """Let the process end when a part of it has died."""
    died = threading.Event()
    health.parts.when_one_dies(died.set)
    while (problem := health.problem) is None:
        died.wait(LOOK_SECONDS)
    log.critical("a part of the process has died, so it ends", extra={"reason": problem})
    server.should_exit = True
