"""What takes long to import is nobody's concern who asks for something else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from billhook.runtime.later import Later
from billhook.runtime.service import ASGIApp


def answer(request: Request) -> Response:
    return PlainTextResponse(request.url.path)


PROBES = [Route("/livez", answer)]


async def ask(app: ASGIApp, path: str, method: str = "GET") -> tuple[int, bytes]:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return said[0]["status"], said[1]["body"]


def test_probes_are_answered_while_the_rest_is_made_and_the_rest_waits() -> None:
    may_go, made = threading.Event(), []

    def make(probes: Sequence[Route]) -> ASGIApp:
        may_go.wait(60)
        made.append(threading.current_thread())
        return Starlette(routes=[*probes, Route("/slow", answer)])

    async def story() -> None:
        later = Later(make, PROBES, lambda: None)
        waiting = asyncio.create_task(ask(later, "/slow"))
        given_up = asyncio.create_task(ask(later, "/slow"))
        assert await ask(later, "/livez") == (200, b"/livez")
        given_up.cancel()
        assert not waiting.done()
        may_go.set()
        assert await waiting == (200, b"/slow")
        assert (await ask(later, "/livez", "POST"))[0] == 405
        assert await ask(later, "/slow") == (200, b"/slow")
        assert len(made) == 1

    asyncio.run(story())


def test_it_is_begun_with_the_server_and_closed_with_it() -> None:
    begun, ended = threading.Event(), threading.Event()

    def make(probes: Sequence[Route]) -> ASGIApp:
        begun.set()
        return Starlette()

    async def story() -> None:
        told: asyncio.Queue[Any] = asyncio.Queue()
        said: asyncio.Queue[Any] = asyncio.Queue()
        await told.put({"type": "lifespan.startup"})
        life = asyncio.create_task(Later(make, PROBES, ended.set)({"type": "lifespan"}, told.get, said.put))
        assert (await said.get())["type"] == "lifespan.startup.complete"
        assert await asyncio.to_thread(begun.wait, 60)
        assert not ended.is_set()
        await told.put({"type": "lifespan.shutdown"})
        await life
        assert ended.is_set()

    asyncio.run(story())


def test_what_cannot_be_made_is_a_reason_to_end() -> None:
    def make(probes: Sequence[Route]) -> ASGIApp:
        raise ImportError("no such thing")

    later = Later(make, PROBES, lambda: None)
    assert later.problem is None
    with pytest.raises(ImportError):
        asyncio.run(ask(later, "/slow"))
    assert later.problem == "its routes could not be made: ImportError: no such thing"
    assert asyncio.run(ask(later, "/livez")) == (200, b"/livez")


@pytest.mark.parametrize("service", ["ingress", "desk", "courier"])
def test_a_process_imports_nothing_to_start_that_it_does_not_start_with(service: str) -> None:
    heavy = {"fastapi", "PIL", "jinja2", "valkey", "typer", "opentelemetry.sdk.trace", "billhook.tracing"}
    code = f"import sys, billhook.runtime.process, services.{service}.service; print(*{heavy!r} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
