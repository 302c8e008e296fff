"""Dunning: attempts that are all due at once, at a provider that takes 20 ms; with a limit of its calls and without."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psutil

from bench.owing import open_case
from bench.product import DURABILITY, databases
from bench.results import Aim, Figure
from bench.scale import Scale
from billhook.metrics import Metrics
from billhook.queue.steps import Steps
from billhook.rules.book.invoice import Invoice
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.payment_attempts import Answer
from billhook.runtime.clock import system_clock
from billhook.runtime.group_commit import give_way
from billhook.runtime.provider_apis import LONGEST_WAIT, ProviderApis
from billhook.runtime.provider_turns import Turns
from billhook.store import work
from billhook.store.bulk import insert_many
from billhook.store.database import Database
from billhook.store.dunning_cases import Case, dunning_cases
from billhook.store.dunning_policies import set_policy
from billhook.store.merchants import create_merchant
from billhook.store.payment_attempts import Attempt, payment_attempts
from billhook.store.schema import new_id
from billhook.store.sources import Source, create_source
from billhook.store.vault import Vault, new_key
from billhook.store.work import DUE
from services.dunner.admission import CALLS, Admission
from services.dunner.attempts import AT_ONCE, Attempts
from services.dunner.service import COLLECTING

LATENCY_SECONDS = 0.02
LIMIT = 100.0
"""Calls a second, of which an attempt makes two."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    with databases(database) as made:
        yield from _unlimited(database, made.new(), scale)
        yield from _limited(database, made.new(), scale)


def _unlimited(database: str, url: str, scale: Scale) -> Iterator[Figure]:
    drained = _Drained(url, scale.attempts, 1e9)
    yield Figure(
        f"dunning.{database}.attempts",
        scale.attempts / drained.seconds,
        "attempts/s",
        _bare(min(scale.attempts, 2000)),
        Aim("value", "at least", 500),
        _conditions(database, scale.attempts) | {"floor": f"a bare loop of the same calls in {AT_ONCE} threads"},
    )
    yield Figure(
        f"dunning.{database}.memory",
        drained.memory[-1],
        "MB",
        drained.memory[len(drained.memory) // 5],
        Aim("ratio", "at most", 1.05),
        _conditions(database, scale.attempts) | {"clock": "at the end, beside after a fifth of the attempts"},
    )


def _limited(database: str, url: str, scale: Scale) -> Iterator[Figure]:
    drained = _Drained(url, scale.limited_attempts, LIMIT)
    calls = sorted(drained.api.calls.kept())
    busiest = max(bisect_left(calls, at + 1.0) - place for place, at in enumerate(calls))
    rate = (len(calls) - 1) / (calls[-1] - calls[0])
    conditions = _conditions(database, scale.limited_attempts) | {"limit": f"{LIMIT:g} calls/s"}
    yield Figure(f"dunning.{database}.limited", rate, "calls/s", LIMIT, Aim("ratio", "at least", 0.98), conditions)
    yield Figure(f"dunning.{database}.busiest_second", busiest, "calls", LIMIT, Aim("ratio", "at most", 1), conditions)
    yield Figure(
        f"dunning.{database}.out_of_order",
        drained.out_of_order(),
        "attempts",
        None,
        Aim("value", "at most", 0),
        conditions | {"work": "attempts that were paid more than a batch before one that was due earlier"},
    )


class _Drained:
    """All attempts, due a microsecond apart and long ago, made."""

    def __init__(self, url: str, count: int, calls_per_second: float) -> None:
        give_way()
        database, vault = Database(url), Vault([new_key()])
        source = _fill(database, vault, count)
        turns = Turns(database, system_clock, calls_per_second)
        self.api = _Provider(count, lambda: turns.take(source, "", LONGEST_WAIT))
        self.memory: list[float] = []
        handler = Attempts(database, _Apis(self.api, vault, turns), system_clock, Metrics())
        admit = Admission(calls_per_second, system_clock).admit
        steps = Steps(handler, database, _Silence(), Metrics(), system_clock, admit=admit)
        process, started = psutil.Process(), time.monotonic()

        def drain(_: int) -> None:
            while self.api.paid.number < count:
                taken = steps.run(None)
                self.memory.append(process.memory_info().rss / 2**20)
                if not taken:
                    time.sleep(0.05)

        with ThreadPoolExecutor(COLLECTING) as pool:
            list(pool.map(drain, range(COLLECTING)))
        self.seconds = time.monotonic() - started
        handler.close()
        with database.read() as tx:
            left = work.due_ids(tx, payment_attempts, now=system_clock() + timedelta(days=365), limit=1)
        if left or len(set(self.api.paid.kept())) != count:
            raise RuntimeError(f"{len(set(self.api.paid.kept()))} of {count} invoices were paid")
        database.close()

    def out_of_order(self) -> int:
        return sum(abs(invoice - place) > Attempts.batch for place, invoice in enumerate(self.api.paid.kept()))


class _Kept:
    """Numbers in memory that is taken before anything is measured: lists of as many floats and names grew by a tenth of
    all that a dunner needs."""

    def __init__(self, most: int) -> None:
        self._values = array("d", [0.0]) * most
        self.number = 0

    def append(self, value: float) -> None:
        self._values[self.number] = value
        self.number += 1

    def kept(self) -> Sequence[float]:
        return self._values[: self.number]


class _Provider:
    """Answers after 20 ms, and notes when it was called: in its turn."""

    def __init__(self, attempts: int, take_turn: Callable[[], object] = lambda: None) -> None:
        self._take_turn = take_turn
        self.calls = _Kept(3 * attempts)  # two of each attempt, and room for some that are made again
        self.paid = _Kept(2 * attempts)
        """By number, in the order in which they are due."""
        self._lock = threading.Lock()

    def _called(self) -> None:
        self._take_turn()
        with self._lock:
            self.calls.append(time.monotonic())
        time.sleep(LATENCY_SECONDS)

    def last_look(self, invoice: str, *, account: str) -> tuple[Invoice, Answer | None]:
        self._called()
        return _invoice(invoice), None

    def pay_invoice(self, invoice: str, *, key: str, account: str) -> Answer:
        self._called()
        with self._lock:
            self.paid.append(_number_of(invoice))
        return Answer("succeeded", reference=f"pi_{invoice}")


class _Apis(ProviderApis):
    """The stub in the place of Stripe's own API."""

    def __init__(self, api: Any, vault: Vault, turns: Turns) -> None:
        super().__init__(vault, turns)
        self._api = api

    def collecting(self, source: Source, *, longest_wait: timedelta = LONGEST_WAIT) -> Any:
        return self._api


class _Silence:
    def ring_all(self, rings: object) -> None:
        pass


def _number_of(invoice: str) -> int:
    return int(invoice.removeprefix("in_"))


def _invoice(external_id: str) -> Invoice:
    amounts = dict.fromkeys(("subtotal", "total", "amount_due", "amount_remaining"), 1900)
    return Invoice(external_id=external_id, status="open", currency="eur", amount_paid=0, attempt_count=1, **amounts)


def _fill(database: Database, vault: Vault, count: int) -> str:
    """Open cases with an attempt each, due in the order of their invoices' numbers; returns their source."""
    now = system_clock()
    with database.begin() as tx:
        merchant = create_merchant(tx, "Bench", now).id
        version = set_policy(tx, merchant, "merchant", "", PRESETS["polar"], now, by="bench")
        sealed = vault.seal("rk_live_bench")
        source = create_source(tx, merchant, "stripe", "bench", vault.seal("whsec_bench"), now, api_key=sealed).id
    far = now + timedelta(days=365)
    order = [f"in_{number:08}" for number in range(count)]
    for first in range(0, count, 5000):
        cases = [
            open_case(merchant, source, version.id, invoice, f"cus_{invoice}", now, grace_until=far, ends_at=far)
            for invoice in order[first : first + 5000]
        ]
        # A microsecond apart, and long ago.
        began = now - timedelta(hours=1) + timedelta(microseconds=first)
        attempts = [_attempt(case, began + timedelta(microseconds=place)) for place, case in enumerate(cases)]
        with database.begin() as tx:
            insert_many(tx, dunning_cases, [{**vars(case), "due_at": far, "state": DUE} for case in cases])
            due = [{**vars(one), "due_at": one.created_at, "state": DUE} for one in attempts]
            insert_many(tx, payment_attempts, due)
    return source


def _attempt(case: Case, at: datetime) -> Attempt:
    attempt_id = new_id("att")
    return Attempt(
        id=attempt_id,
        merchant_id=case.merchant_id,
        case_id=case.id,
        source_id=case.source_id,
        account="",
        invoice_id=case.invoice_id,
        trigger="cycle",
        number=1,
        idempotency_key=f"billhook-{attempt_id}",
        status="created",
        amount=case.amount,
        currency=case.currency,
        created_at=at,
    )


def _bare(count: int) -> float:
    """Attempts a second of a loop that makes the two calls of each and nothing else."""
    api, started = _Provider(count), time.monotonic()

    def one(number: int) -> None:
        api.last_look(f"in_{number:08}", account="")
        api.pay_invoice(f"in_{number:08}", key="", account="")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(count)))
    return count / (time.monotonic() - started)


def _conditions(database: str, attempts: int) -> dict[str, Any]:
    return {
        "work": "attempts that are due at once: the last look, the charge, and what follows from it; one dunner",
        "attempts": attempts,
        "calls_an_attempt": CALLS,
        "latency_ms": 1000 * LATENCY_SECONDS,
        "database": DURABILITY[database],
    }
