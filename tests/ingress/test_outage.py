"""The door while what is behind it is gone, or slower than what comes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from ingress.asgi import running
from ingress.sender import SECRET, Door, stripe_event
from store.databases import lay_ledger
from store.events import arrival

from billhook.metrics import Metrics
from billhook.queue.bell import Bell
from billhook.runtime.clock import system_clock
from billhook.runtime.env import Env
from billhook.runtime.group_commit import WAITING_LIMIT, LineFull
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.store import merchants, sources
from billhook.store.database import Database
from billhook_testing.servers import PostgresServer
from services.ingress.app import build
from services.ingress.commit import inbox_line


def test_a_database_that_goes_away_is_a_503_and_comes_back(
    fragile_postgres: PostgresServer, fragile_template: str, tmp_path: Path
) -> None:
    server = fragile_postgres
    url = server.create_database(fragile_template)
    env = Env(Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0"))
    env.make_encryption_key()
    with env.database.begin() as tx:
        merchant = merchants.create_merchant(tx, "Acme", env.clock())
        source = sources.create_source(tx, merchant.id, "stripe", "s", env.vault.seal(SECRET), env.clock())
    with running(build(env, Health())) as client:
        door = Door(client, env, merchant.id, source.id, "")
        assert door.stripe(stripe_event("evt_1")).status == 200

        server.kill()
        answer = door.stripe(stripe_event("evt_2"))
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert client.send("/livez", [b""], [], method="GET").status == 200

        server.start()
        statuses = [door.stripe(stripe_event("evt_2")).status for _ in range(5)]
        assert statuses[-1] == 200
        assert [row[0] for row in door.stored("external_id")] == ["evt_1", "evt_2"]
    env.close()


class Gate(Database):
    """A database whose transactions wait until the gate is opened."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.opened = threading.Event()

    def statement(self):  # type: ignore[no-untyped-def]
        self.opened.wait(30)
        return super().statement()


def test_more_than_can_wait_is_refused_at_once_and_what_waits_is_stored(tmp_path: Path, env: Env) -> None:
    lay_ledger(tmp_path / "gate.db")
    database = Gate(f"sqlite:///{tmp_path}/gate.db")
    metrics = Metrics()
    line = inbox_line(database, Bell(env.broker, metrics), metrics, system_clock, Health())

    async def crowd() -> tuple[int, int]:
        waiting = [asyncio.create_task(line.submit(arrival(f"e{n}"))) for n in range(WAITING_LIMIT + 600)]
        await asyncio.sleep(0)
        refused = sum(task.done() for task in waiting)
        database.opened.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(result, LineFull) for result in results) == refused
        return refused, len(results) - refused

    refused, stored = asyncio.run(crowd())
    line.stop()
    assert refused >= 300
    with database.read() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM inbox").scalar_one() == stored
    database.close()


@pytest.mark.parametrize("poison", ["a\ud800b"])
def test_what_no_column_can_hold_costs_only_its_own_sender(tmp_path: Path, env: Env, poison: str) -> None:
    line = inbox_line(env.database, env.bell, env.metrics, system_clock, Health())

    async def batch() -> list[object]:
        arrivals = [arrival("good 1"), arrival(poison), arrival("good 2")]
        return await asyncio.gather(*(line.submit(a) for a in arrivals), return_exceptions=True)

    results = asyncio.run(batch())
    line.stop()
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
