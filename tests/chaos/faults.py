"""What is done to the product. A fault is a line in `FAULTS`: how it begins, how long it lasts, how it ends."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from tests.chaos.product import SERVICES, Product


def _over(product: Product) -> None:
    """It was over when it had begun."""


@dataclass(frozen=True)
class Fault:
    """`seconds` pass between `begin` and `end`."""

    name: str
    begin: Callable[[Product], None]
    seconds: float = 0.0
    end: Callable[[Product], None] = _over
    only_on: str | None = None
    """The one database that it can happen to; None: any."""


def kill(service: str) -> Fault:
    return Fault(f"kill -9 {service}", lambda product: product.kill(service))


def _kill_everything(product: Product) -> None:
    for service in product.services:
        product.kill(service)
    _lose_the_queue(product)


def _lose_the_queue(product: Product) -> None:
    product.valkey.restart(keep_data=False)


def _flush(product: Product) -> None:
    with redis.Redis.from_url(product.valkey.url) as client:
        client.flushall()


def _take_the_queue_away(product: Product) -> None:
    product.valkey.kill()
    shutil.rmtree(product.valkey.directory / "appendonlydir", ignore_errors=True)


EVERYTHING = Fault("kill -9 everything", _kill_everything)
EMPTIED = Fault("queue killed, its file lost", _lose_the_queue)
KEPT = Fault("queue killed, its file kept", lambda product: product.valkey.restart(keep_data=True))
FLUSHED = Fault("FLUSHALL", _flush)


def frozen(seconds: float) -> Fault:
    """The queue's process stands still: connections stay open, nothing answers."""
    return Fault(
        f"queue frozen {seconds:g} s",
        lambda product: product.valkey.freeze(),
        seconds,
        lambda product: product.valkey.thaw(),
    )


def absent(seconds: float) -> Fault:
    """The queue refuses connections, and comes back empty."""
    return Fault(f"queue absent {seconds:g} s", _take_the_queue_away, seconds, lambda product: product.valkey.start())


def writer_held(seconds: float) -> Fault:
    """SQLite's one writer is somebody else, who does not let go."""
    return Fault(
        f"database's writer held {seconds:g} s",
        lambda product: product.hold_the_writer(),
        seconds,
        lambda product: product.let_go_of_the_writer(),
        only_on="sqlite",
    )


def server_frozen(seconds: float) -> Fault:
    """All processes of the database's server stand still: connections stay open, nothing answers."""
    return Fault(
        f"database frozen {seconds:g} s",
        lambda product: product.postgres.freeze(),
        seconds,
        lambda product: product.postgres.thaw(),
        only_on="postgresql",
    )


def server_absent(seconds: float) -> Fault:
    """The database's server is killed (kill -9) and comes back later."""
    return Fault(
        f"database killed, away {seconds:g} s",
        lambda product: product.postgres.kill(),
        seconds,
        lambda product: product.start_the_database(),
        only_on="postgresql",
    )


def partitioned(seconds: float) -> Fault:
    """The network between the services and the database's server swallows everything: nobody hears that anybody is
    gone."""
    return Fault(
        f"database's network swallows {seconds:g} s",
        lambda product: product.way.swallow(),
        seconds,
        lambda product: product.way.open(),
        only_on="postgresql",
    )


def unwritable(seconds: float) -> Fault:
    """The database's server answers, and takes no writes."""
    return Fault(
        f"database takes no writes {seconds:g} s",
        lambda product: product.allow_writes(False),
        seconds,
        lambda product: product.allow_writes(True),
        only_on="postgresql",
    )


def clock_stepped(by_seconds: float, seconds: float) -> Fault:
    """The wall clock of every service jumps, as after a suspended machine or a correction by NTP, and jumps back."""
    return Fault(
        f"clock {by_seconds:+g} s for {seconds:g} s",
        lambda product: product.step_clock(by_seconds),
        seconds,
        lambda product: product.step_clock(0),
    )


KILLS = tuple(kill(service) for service in SERVICES)
FAULTS: dict[str, tuple[Fault, ...]] = {
    "kills": KILLS,
    "dunner": tuple(
        Fault(f"kill -9 dunner in mid-attempt, {time}", lambda product: product.kill_in_mid_attempt())
        for time in ("first", "second", "third")
    ),
    "everything": (EVERYTHING,),
    "queue": (EMPTIED, KEPT, FLUSHED, frozen(5), absent(20)),
    "database": (
        *(writer_held(5), server_frozen(5), server_absent(0), server_absent(5)),
        *(partitioned(8), unwritable(5)),
    ),
    "clock": (clock_stepped(+60, 6), clock_stepped(-60, 6)),
}
"""By the names that `--faults` takes."""


@dataclass(frozen=True)
class Strike:
    """A fault and when it begins, in seconds from the start of the traffic."""

    at: float
    fault: Fault
    waits: bool = True
    """For all services to be up. What is drawn by lot does not: it may hit one that is just starting."""


def schedule(faults: Sequence[Fault], seconds: float, seed: int, *, random_kills: int, quiet: float) -> list[Strike]:
    """Each fault once, in an order drawn from the seed, one after the other between two quiet times at the beginning
    and the end; and kills of services drawn by lot at any time between, also while another fault lasts."""
    rng = random.Random(seed)
    order = rng.sample(list(faults), len(faults))
    free = seconds - 2 * quiet - sum(fault.seconds for fault in order)
    pause = max(0.5, free / max(1, len(order)))
    strikes, at = [], quiet
    for fault in order:
        strikes.append(Strike(at, fault))
        at += fault.seconds + pause
    for _ in range(random_kills):
        drawn = rng.choice(SERVICES)
        strikes.append(
            Strike(rng.uniform(quiet, at), Fault(f"kill -9 {drawn}, at random", kill(drawn).begin), waits=False)
        )
    return sorted(strikes, key=lambda strike: strike.at)
