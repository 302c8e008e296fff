"""Memory of each process: at rest, and whether it grows with the events that have passed through."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil

from bench.generator import Generator, Load
from bench.pipeline import PATIENCE_SECONDS, Bench
from bench.product import DURABILITY, WHOLE, databases, installed, running
from bench.publish import publications
from bench.receiver import Receiver
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.store.merchants import create_key

WARM_SHARE = 0.2
"""Of the events, after how many the first look is taken: until then pools and caches fill."""

AT_ONCE = 10_000
PUBLISHING = ("desk", "courier", "relay")
MOST_TOGETHER = 180.0
"""MB, of these three after 20,000 messages."""
MOST_GROWTH = 1.05


def memory_of(pid: int) -> float:
    """In MB. The proportional set size where the system tells it (pages shared by n processes count 1/n each)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if rollup.exists():
        for line in rollup.read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 2**20


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    with databases(database) as made:
        yield from _publishing(made.new(), database, scale)
    if database == "sqlite":
        yield from _events(database, scale)


def _publishing(url: str, database: str, scale: Scale) -> Iterator[Figure]:
    """What a merchant's own messages need: desk, courier and relay, run as `billhook run` runs them."""
    bench = Bench()
    try:
        with installed(url) as product:
            product.add_endpoints([bench.receiver.url])
            pids = product.run_together(PUBLISHING)
            with product.env.database.begin() as tx:
                _, key = create_key(tx, product.merchant_id, "bench", product.env.clock())

            def publish(_: int, count: int) -> None:
                requests = partial(publications, key)
                passage = bench.pass_through(product.settings.desk_port, "/v1/messages", count, requests=requests)
                if passage.lost:
                    raise RuntimeError(f"{passage.lost} of {count} messages did not arrive")

            name = f"memory.{database}.messages"
            yield from _growth(name, pids, scale.message_memory, publish, database)
            conditions = {
                "work": ", ".join(PUBLISHING) + f" together after {scale.message_memory} messages: what each has for"
                " itself, and its part of what they share (PSS)",
                "database": DURABILITY[database],
            }
            together = sum(memory_of(pid) for pid in pids.values())
            yield Figure(f"{name}.together", together, "MB", None, Aim("value", "at most", MOST_TOGETHER), conditions)
    finally:
        bench.close()


def _events(database: str, scale: Scale) -> Iterator[Figure]:
    generator, receiver = Generator(), Receiver()
    try:
        with databases(database) as made:
            with running(made.new(), ["ingress"]) as product:

                def post(first: int, events: int) -> None:
                    generator.post(Load(product.host, product.port, product.path, first, events))

                pids = {"ingress": product.pids["ingress"]}
                yield from _growth(f"memory.{database}.door", pids, scale.ingress_memory, post, database)
            with running(made.new(), WHOLE, receiver.url) as product:
                yield from _rest(product.pids, database)
                arrived = 0

                def pass_through(first: int, events: int) -> None:
                    nonlocal arrived
                    arrived += events
                    generator.post(Load(product.host, product.port, product.path, first, events))
                    if not receiver.wait_for(arrived, PATIENCE_SECONDS):
                        raise RuntimeError(f"only {receiver.count()} of {arrived} events arrived")

                name = f"memory.{database}.pipeline"
                yield from _growth(name, product.pids, scale.pipeline_memory, pass_through, database)
    finally:
        generator.close()
        receiver.close()


def _rest(pids: Mapping[str, int], database: str) -> Iterator[Figure]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bare:
        time.sleep(1)
        floor = memory_of(bare.pid)
        bare.kill()
    for name, pid in pids.items():
        conditions = {
            "work": f"the {name} just started, the whole product beside it",
            "floor": "a Python interpreter that does nothing",
            "database": DURABILITY[database],
        }
        yield Figure(f"memory.{database}.rest.{name}", memory_of(pid), "MB", floor, None, conditions)


def _growth(
    name: str, pids: Mapping[str, int], events: int, work: Callable[[int, int], None], database: str
) -> Iterator[Figure]:
    warm: dict[str, float] = {}
    done = 0
    while done < events:
        part = min(AT_ONCE, int(events * WARM_SHARE) - done if not warm else events - done)
        work(1 + done, part)
        done += part
        if not warm and done >= events * WARM_SHARE:
            time.sleep(1)
            warm = {process: memory_of(pid) for process, pid in pids.items()}
    time.sleep(1)
    for process, pid in pids.items():
        conditions = {
            "work": f"after {events} events",
            "floor": f"the same process after {int(events * WARM_SHARE)} events",
            "events": events,
            "database": DURABILITY[database],
        }
        aim = Aim("ratio", "at most", MOST_GROWTH)
        yield Figure(f"{name}.{process}", memory_of(pid), "MB", warm[process], aim, conditions)
