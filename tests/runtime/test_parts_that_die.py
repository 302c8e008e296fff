"""A process of which a part has died ends, with the reason and a code that is not 0: every thread of every service."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
import requests
from dramatiq.worker import _WorkerThread

from billhook.actions.publishing import Publisher
from billhook.parts import Part, Parts
from billhook.runtime import group_commit, host
from billhook.runtime.env import Env
from billhook.runtime.group_commit import GroupCommit, LineEnded
from billhook.runtime.health import Probes
from billhook.runtime.service import Health, find_service, service_names
from billhook.runtime.settings import read_settings
from billhook.runtime.valkey import free_port
from billhook.store import migrate
from billhook.store.merchants import create_key, create_merchant
from billhook.store.vault import new_key
from billhook_testing.servers import ValkeyServer
from services.courier.delivery import Delivery
from services.relay.sweep import Sweeper

SERVICES = [find_service(name) for name in service_names()]
CONSUMERS = [service.name for service in SERVICES if service.start is not None]
SERVERS = [service.name for service in SERVICES if service.app is not None]


def until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> dict[str, str]:
    chosen = {
        "var": str(tmp_path_factory.mktemp("var")),
        "encryption_keys": new_key(),
        "queue_url": valkey.url,
        "relay_port": str(free_port()),
        "desk_port": str(free_port()),
    }
    env = Env(read_settings(**chosen))
    migrate.upgrade(env.database)
    env.close()
    return chosen


@pytest.fixture
def env(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    """A thread is killed when it does something, so all of them do something soon."""
    for name in ("relay.pruning", "relay.exporter", "reconciler.schedule"):
        monkeypatch.setattr(f"services.{name}.EVERY_SECONDS", 0.05)
    monkeypatch.setattr("billhook.outlets.webhooks.client.SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(Delivery, "lease", timedelta(seconds=0.3))
    env = Env(read_settings(**settings))
    yield env
    env.close()


def kill(thread: threading.Thread) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


def end(thread: threading.Thread, parts: Parts, doomed: set[int], env: Env) -> None:
    """Kill it: a part between two pieces of work, for one that dies within another's lock would keep that for good.
    What is no part, or waits for work that does not come, is killed where it is; and once more if it lives, for what is
    raised while the collector runs is swallowed there."""
    doomed.add(thread.ident or 0)
    is_part = thread.name in {part.name for part in parts._parts}
    tries = 0
    while thread.is_alive():
        assert tries < 30, f"{thread.name} does not end"
        if not is_part or tries > 1:
            kill(thread)
        env.bell.look("nobody")  # wakes the bell
        thread.join(1)
        tries += 1


@pytest.fixture
def doomed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Threads that die as soon as they begin or end a piece of work."""
    found: set[int] = set()
    for name in ("tick", "rest"):
        method = getattr(Part, name)

        def or_die(part: Part, method: Callable[[Part], None] = method) -> None:
            if threading.get_ident() in found:
                raise SystemExit("killed")
            method(part)

        monkeypatch.setattr(Part, name, or_die)
    return found


def is_exempt(thread: threading.Thread) -> bool:
    """A listener has two threads, and one that died is enough. pycares has one that closes what nobody needs."""
    return isinstance(thread, _WorkerThread) or "_run_safe_shutdown_loop" in thread.name or is_short(thread)


def is_short(thread: threading.Thread) -> bool:
    """It makes a connection to the queue beside whoever waits, and ends."""
    return thread.name.startswith("rings of ")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", CONSUMERS)
def test_no_thread_of_a_consumer_dies_in_silence(name: str, env: Env, doomed: set[int]) -> None:
    start, health, before = find_service(name).start, Health(), set(threading.enumerate())
    assert start is not None
    health.watch(env.bell.problem)
    running = start(env, health)
    try:
        threads = [one for one in threading.enumerate() if one not in before and not is_exempt(one)]
        assert health.parts.deaths == []
        assert Probes(env, health).answer("/livez")[0] == 200
        for count, thread in enumerate(threads):
            end(thread, health.parts, doomed, env)
            until(lambda count=count: len(health.parts.deaths) > count, f"hearing of the end of {thread.name}")
    finally:
        running.stop(5)
    status, _, body = Probes(env, health).answer("/livez")
    assert status == 503
    assert json.loads(body)["reason"] == health.problem


@pytest.mark.parametrize("name", SERVERS)
def test_no_thread_of_a_server_dies_in_silence(name: str, env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[GroupCommit[Any, Any]] = []
    make = GroupCommit.__init__

    def remember(line: GroupCommit[Any, Any], *given: Any, **named: Any) -> None:
        lines.append(line)
        make(line, *given, **{**named, "size": lambda item: 0})
        line._do = die

    def die(items: object) -> list[Any]:
        raise SystemExit("out of memory")

    monkeypatch.setattr(group_commit.GroupCommit, "__init__", remember)
    app, health, before = find_service(name).app, Health(), set(threading.enumerate())
    assert app is not None
    app(env, health)
    health.watch(env.bell.problem)
    assert lines
    # The one that writes down which keys were used is a part like those of consumers.
    assert {one.name for one in threading.enumerate() if one not in before} <= {"bell", "key use"}
    for line in lines:
        line.problem = None
        with pytest.raises(LineEnded):
            asyncio.run(line.submit("anything"))
        assert "out of memory" in str(health.problem)
        assert Probes(env, health).answer("/livez")[0] == 503
        line.problem = None
    assert health.problem is None


def test_a_consumer_that_lost_a_part_ends_with_1_and_says_which(
    env: Env, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(*_: object) -> None:
        raise SystemExit("out of memory")

    monkeypatch.setattr(Sweeper, "sweep", die)
    with at_home(monkeypatch), caplog.at_level(logging.CRITICAL):
        assert host.run_service(find_service("relay"), env) == 1
    assert reasons(caplog) == ["the sweep ended: SystemExit: out of memory"]


def test_a_desk_that_cannot_commit_any_more_ends_with_1_and_says_why(
    env: Env, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(publisher: Publisher, wanted: object) -> None:
        raise SystemExit("out of memory")

    monkeypatch.setattr(Publisher, "__call__", die)
    with env.database.begin() as tx:
        _, key = create_key(tx, create_merchant(tx, "Acme", env.clock()).id, "program", env.clock())
    statuses: list[int] = []

    def publish() -> None:
        while not statuses:
            with suppress(requests.ConnectionError):
                answer = requests.post(
                    f"http://127.0.0.1:{env.settings.desk_port}/v1/messages",
                    json={"event_type": "order.shipped", "data": {}},
                    headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "one"},
                    timeout=30,
                )
                statuses.append(answer.status_code)

    with at_home(monkeypatch), caplog.at_level(logging.CRITICAL):
        threading.Thread(target=publish, daemon=True).start()
        assert host.run_service(find_service("desk"), env) == 1
    until(lambda: statuses, "hearing the answer")
    assert statuses == [500]
    (reason,) = reasons(caplog)
    assert "out of memory" in reason


@contextmanager
def at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without what a service does to a process of its own, and this one is not."""
    for name in ("logs.set_up", "_spare_the_collector", "Stop.on_signals"):
        monkeypatch.setattr(f"billhook.runtime.host.{name}", lambda *_: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.__dict__["reason"]) for record in caplog.records if "so it ends" in record.message]
