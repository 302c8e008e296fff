"""One run: start, traffic, faults, drain, account."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from billhook.actions.sources import new_signing_secret
from billhook_testing.servers import PostgresServer
from tests.chaos.account import Account, Evidence, account
from tests.chaos.debts import Debts, ask_at_once, gather_debts, settle
from tests.chaos.evidence import gather, work_left
from tests.chaos.faults import Fault, Strike, schedule
from tests.chaos.ledger import Ledger
from tests.chaos.product import Product
from tests.chaos.receiver import Receiver
from tests.chaos.sender import Sender
from tests.chaos.traffic import traffic

ENDPOINTS = {"everything": ["*"], "invoices": ["invoice.*", "payment.*"]}

DRAIN_SECONDS = 120.0
"""Beyond the longest lease, for a machine that is busy with other things."""

UP_SECONDS = 20.0
"""How long a fault waits for the services that an earlier one felled; on a busy machine a start takes seconds."""

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Options:
    """`seconds` of traffic at `rate` events a second; `lease_seconds` None leaves the leases as they are."""

    faults: Sequence[Fault]
    seconds: float = 90.0
    rate: float = 80.0
    seed: int = 1
    random_kills: int = 4
    quiet: float = 3.0
    lease_seconds: float | None = None
    refuse: float = 0.05
    debts: int = 0
    """Invoices whose payment failed; without any there is no dunner."""
    server: PostgresServer | None = None
    """Where the database is, if it is a server."""


@dataclass(frozen=True)
class Struck:
    """A fault as it happened, in seconds since 1970."""

    name: str
    began: float
    ended: float


@dataclass(frozen=True)
class Recovery:
    """What a fault cost, counted from its end.

    `back`: until the first event accepted after it had had all its effects. `drained`: until all events accepted before
    its end had had theirs; 0.0 when nothing was left over. What a later fault adds to that is in it. Events whose
    webhook the receiver refused at first do not count.
    """

    name: str
    back: float
    drained: float


@dataclass(frozen=True)
class Report:
    """How a run ended."""

    evidence: Evidence
    account: Account
    recoveries: Sequence[Recovery]
    begun: int
    sent_again: int
    failed_tries: int
    restarts: int
    longest_lease: float
    drain_seconds: float
    unfinished: Sequence[str]
    """What did not end in time, in sentences."""
    collected: int = 0
    """Failed payments that were carried, and every charge counted at the provider."""

    @property
    def ok(self) -> bool:
        return self.account.balanced and not self.unfinished and self.account.accepted == self.begun


def run(database_url: str, directory: Path, options: Options, say: Callable[[str], None]) -> Report:
    """Run the whole product on an empty database. `say` gets a line for each step."""
    debts = Debts(options.debts, options.seconds * 0.8) if options.debts else None
    product = Product(directory, database_url, lease_seconds=options.lease_seconds, server=options.server, debts=debts)
    secrets = {name: new_signing_secret() for name in ENDPOINTS}
    receiver = Receiver(secrets, refuse=options.refuse, seed=options.seed)
    ledger = Ledger(directory / "ledger.jsonl")
    try:
        receiver.start()
        addresses = product.prepare()
        for name, patterns in ENDPOINTS.items():
            product.add_endpoint(receiver.url(name), patterns, secrets[name])
        unfinished = [] if product.start() else ["the services were not ready within a minute"]
        sender = Sender(addresses, ledger, traffic(options.seed), options.rate)
        sender.start()
        if debts is not None:
            debts.start()
        database = "postgresql" if options.server is not None else "sqlite"
        faults = [fault for fault in options.faults if fault.only_on in (None, database)]
        strikes = schedule(
            faults, options.seconds, options.seed, random_kills=options.random_kills, quiet=options.quiet
        )
        struck = _strike(product, receiver, strikes, options.seconds, say, lambda: len(ledger.entries))
        say("traffic ends, draining")
        began = time.monotonic()
        if not sender.finish(DRAIN_SECONDS):
            unfinished.append("not every event was accepted in the end")
        if debts is not None and not debts.finish(DRAIN_SECONDS):
            unfinished.append("not every failed payment was told in the end")
        unfinished += _drain(product, debts, began + product.longest_lease + DRAIN_SECONDS)
        drained = time.monotonic() - began
        unfinished += product.stop()
        if unfinished:
            for line in product.last_words():
                say(line)
        evidence = gather(product.env.database, product.env.objects, ledger.entries, receiver.arrivals)
        result = account(evidence)
        carried = gather_debts(product.env.database, debts) if debts is not None else []
        for findings, sentences in zip((result.lost, result.doubled), settle(carried), strict=True):
            findings += sentences
        accepted = {(entry.event.source, entry.event.id): entry.at for entry in ledger.entries}
        counted = {identity: at for identity, at in accepted.items() if identity not in result.refused}
        return Report(
            evidence=evidence,
            account=result,
            recoveries=[_recovery(fault, counted, result.done_at) for fault in struck],
            begun=sender.begun,
            sent_again=sender.sent_again,
            failed_tries=sender.failed_tries,
            restarts=product.restarts,
            longest_lease=product.longest_lease,
            drain_seconds=drained,
            unfinished=unfinished,
            collected=sum(debt.charges for debt in carried),
        )
    finally:
        product.close()
        if debts is not None:
            debts.close()
        receiver.close()
        ledger.close()


def _strike(
    product: Product,
    receiver: Receiver,
    strikes: Sequence[Strike],
    seconds: float,
    say: Callable[[str], None],
    accepted: Callable[[], int],
) -> list[Struck]:
    """Carry out the schedule, each step at its time, and return when the traffic is to end."""
    steps: list[tuple[float, int, bool]] = []
    for number, strike in enumerate(strikes):
        steps += [(strike.at, number, True), (strike.at + strike.fault.seconds, number, False)]
    start = time.monotonic()
    began: dict[int, float] = {}
    struck = []
    for at, number, begins in sorted(steps, key=lambda step: (step[0], step[1], not step[2])):
        fault = strikes[number].fault
        _sleep_until(start + at)
        if begins:
            receiver.relent()
            if strikes[number].waits:
                waiting = time.monotonic()
                product.wait_until_up(UP_SECONDS)
                start += time.monotonic() - waiting  # whatever comes later comes that much later
            say(f"{at:6.1f} s  {accepted():>6} accepted {len(receiver.arrivals):>6} arrived   {fault.name}")
            fault.begin(product)
            began[number] = time.time()
        else:
            fault.end(product)
            struck.append(Struck(fault.name, began[number], time.time()))
    _sleep_until(start + seconds)
    return struck


def _drain(product: Product, debts: Debts | None, deadline: float) -> list[str]:
    while any((left := work_left(product.env.database)).values()):
        if time.monotonic() > deadline:
            return [f"{count} rows of {queue} are not finished" for queue, count in left.items() if count]
        if debts is not None:
            ask_at_once(product.env)
        time.sleep(POLL_SECONDS)
    return []


def _recovery(fault: Struck, accepted: dict[tuple[str, str], float], done: dict[tuple[str, str], float]) -> Recovery:
    before = [done.get(event, 0.0) for event, at in accepted.items() if at <= fault.ended]
    # The sender notes an acceptance when it comes around to it: by then the event may be through already.
    after = [done[event] for event, at in accepted.items() if at > fault.ended and done.get(event, 0.0) > fault.ended]
    return Recovery(
        fault.name,
        back=min(after, default=fault.ended) - fault.ended,
        drained=max(0.0, max(before, default=0.0) - fault.ended),
    )


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
