"""Reconciliation: objects compared a second, beside the bare cost of paging the stub; and whether memory grows."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.processes import Child, Connection
from bench.product import DURABILITY, databases
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.actions.reconciliation import begin_run, run_of
from billhook.metrics import Metrics
from billhook.outlets.objects import DirectoryObjects
from billhook.providers.stripe_api import StripeApi
from billhook.queue.steps import Steps
from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.runtime.clock import system_clock
from billhook.runtime.provider_apis import ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store import book
from billhook.store.database import Database
from billhook.store.merchants import create_merchant
from billhook.store.reconciliation import get_run
from billhook.store.sources import create_source, get_source
from billhook.store.vault import Vault, new_key
from billhook.store.work import DUE
from services.reconciler.running import Reconciling

PAGE = 100
EPOCH = 1_700_000_000
API_KEY = "rk_live_bench"
MOST_GROWTH = 1.05


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    small, large = scale.compared // 10, scale.compared
    with databases(database) as made:
        peaks = {}
        for count in (small, large):
            stub = Child(_serve, count)
            worker = Child(_compare, made.new(), count, str(stub.hear()))
            try:
                answer = worker.hear(3600)
            finally:
                worker.close()
                stub.close()
            peaks[count] = answer["peak_mb"]
            if count == large:
                yield from _figures(database, count, answer)
    yield Figure(
        f"reconcile.{database}.memory",
        peaks[large],
        "MB",
        peaks[small],
        Aim("ratio", "at most", MOST_GROWTH),
        {"work": f"peak RSS at {large} objects", "floor": f"peak RSS at {small} objects, in a process of its own"},
    )


def _figures(database: str, count: int, answer: dict[str, Any]) -> Iterator[Figure]:
    yield Figure(
        f"reconcile.{database}.compared",
        count / answer["compared_seconds"],
        "objects/s",
        count / answer["paged_seconds"],
        None,
        {
            "work": "a run over one list, from its first page to its end; no limit of calls",
            "floor": "the same pages asked for by the same client, and nothing done with them",
            "objects": count,
            "page": PAGE,
            "confirmed": answer["confirmed"],
            "database": DURABILITY[database],
            "stub": "an HTTP server on the same cores",
        },
    )


def _compare(parent: Connection, url: str, count: int, base: str) -> None:
    database, vault = Database(url), Vault([new_key()])
    with TemporaryDirectory() as objects:
        now = system_clock()
        with database.begin() as tx:
            merchant = create_merchant(tx, "Bench", now).id
            sealed = vault.seal(API_KEY)
            source_id = create_source(
                tx, merchant, "stripe", "bench", vault.seal("whsec_bench"), now, api_key=sealed, api_base=base
            ).id
        for first in range(0, count, 1000):
            entries = [
                book.Entry(merchant, source_id, "", Change(_customer(number), now))
                for number in range(first, min(first + 1000, count))
            ]
            with database.begin() as tx:
                book.apply(tx, entries, now)
        api, cursor, started = StripeApi(API_KEY, base_url=base), None, time.monotonic()
        since, until = datetime.fromtimestamp(EPOCH - 1, UTC), datetime.fromtimestamp(EPOCH + count + 1, UTC)
        while True:
            page = api.list_objects("customer", since=since, until=until, cursor=cursor)
            if (cursor := page.cursor) is None:
                break
        paged = time.monotonic() - started
        with database.begin() as tx:
            source = get_source(tx, source_id)
            assert source is not None
            run_id = begin_run(tx, run_of(source, since, now, by="bench", until=until, lists=["customer"]), now)
        storage = DirectoryObjects(Path(objects))
        handler = Reconciling(
            database,
            ProviderApis(vault, Turns(database, system_clock, 1e9)),
            lambda: storage,
            Metrics(),
            system_clock,
            settle=timedelta(0),
        )
        steps, started = Steps(handler, database, _Silence(), Metrics(), system_clock), time.monotonic()
        while True:
            steps.run(None)
            with database.read() as tx:
                run = get_run(tx, run_id)
            assert run is not None
            if run.state != DUE:
                break
        parent.send(
            {
                "paged_seconds": paged,
                "compared_seconds": time.monotonic() - started,
                "confirmed": run.confirmed,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        if run.compared != count or run.confirmed or run.notes:
            raise RuntimeError(f"it did not compare {count} objects that are the same: {run}")


class _Silence:
    def ring_all(self, rings: object) -> None:
        pass


def _customer(number: int) -> Customer:
    return Customer(
        external_id=f"cus_{number:08}",
        created=datetime.fromtimestamp(EPOCH + number, UTC),
        name=f"Customer {number}",
        email=f"{number}@example.com",
    )


def _serve(parent: Connection, count: int) -> None:
    """Stripe's list of customers, newest first."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            after = query.get("starting_after")
            last = count if after is None else int(after[0].removeprefix("cus_"))
            numbers = range(last - 1, max(last - 1 - PAGE, -1), -1)
            shown = [
                {
                    "id": f"cus_{number:08}",
                    "object": "customer",
                    "created": EPOCH + number,
                    "name": f"Customer {number}",
                    "email": f"{number}@example.com",
                }
                for number in numbers
            ]
            body = json.dumps({"object": "list", "data": shown, "has_more": last - PAGE > 0, "url": ""}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    parent.send(f"http://127.0.0.1:{server.server_address[1]}")
    parent.poll(None)  # until the parent ends
