"""`make demo`: a subscription's life, driven through the running product by a fake Stripe, seen arriving at a merchant.

Nothing in it is special: the fake Stripe posts signed events to the ingress as Stripe would, and the receiver checks
what arrives as a merchant would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from billhook.actions.reconciliation import begin_run
from billhook.actions.ringing import ring
from billhook.actions.sources import new_signing_secret
from billhook.errors import SignatureRefused
from billhook.rules.dunning_policy import Policy as DunningPolicy
from billhook.rules.signing import verify
from billhook.runtime.env import Env
from billhook.runtime.health import is_ready, wait_until_ready
from billhook.runtime.service import service_names
from billhook.runtime.settings import Settings, read_settings
from billhook.store import book
from billhook.store.deliveries import list_attempts, list_deliveries
from billhook.store.documents import list_documents
from billhook.store.dunning_policies import set_policy
from billhook.store.endpoints import create_endpoint, set_disabled
from billhook.store.merchants import Merchant, create_merchant
from billhook.store.reconciliation import NewRun, reconciliation_runs
from billhook.store.sources import create_source, disable_source, set_api_key
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.world import Policy

PATIENCE_SECONDS = 60.0

LOOPBACK = "127.0.0.0/8"
"""Where the demo's receiver is."""

STORY = (
    ("a customer signs up", ("customer.created",)),
    ("they subscribe and pay their first invoice", ("invoice.finalized", "invoice.paid", "payment.succeeded")),
    ("the subscription is active", ("subscription.updated",)),
    ("a month later the card is declined", ("payment.failed", "invoice.payment_failed")),
    ("it becomes a case, and is tried again in vain", ("dunning.case_opened", "dunning.attempt_failed")),
    ("another card: the second attempt brings the money", ("dunning.recovered",)),
    ("of somebody else it never comes: the case is given up", ("dunning.exhausted", "subscription.canceled")),
    ("a webhook is lost: it is found, and told after all", ("reconciliation.finding_confirmed", "product.updated")),
)
"""What happens, and the news a merchant must hear of it."""


PATIENT = DunningPolicy(name="demo", attempts=(0, 3, 7), end_day=14)
STRICT = DunningPolicy(name="no patience", attempts=(0,), grace_days=0, end_day=0, final_action="cancel_subscription")
"""Day 0 is at once: nobody watches a demo for a week."""


@dataclass
class Arrivals:
    """What has come to the demo's receiver: (type, number of the subject's invoice if any, verified)."""

    secret: str
    seen: list[tuple[str, bool, float]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, headers: dict[str, str], body: bytes, env: Env) -> None:
        try:
            verify(headers, body, [self.secret], env.clock(), 300)
            verified = True
        except SignatureRefused:
            verified = False
        with self.changed:
            self.seen.append((json.loads(body)["type"], verified, time.monotonic()))
            self.changed.notify_all()

    def wait_for(self, event_types: Sequence[str]) -> bool:
        """Whether one of each has come, verified, before patience ends."""
        with self.changed:
            return self.changed.wait_for(lambda: all(map(self.count, event_types)), PATIENCE_SECONDS)

    def count(self, event_type: str) -> int:
        return sum(1 for seen, verified, _ in self.seen if seen == event_type and verified)


def run_demo(settings: Settings) -> int:
    """Run it; 0 when everything arrived and verified."""
    console = Console(highlight=False)
    with _product(settings, console) as env, _receiver(env) as (url, arrivals):
        merchant, source_id, endpoint_id, secret = _register(env, url, arrivals.secret)
        ingress = f"{settings.address_of('ingress')}/v1/sources/{source_id}/events"
        # Its own retries are off: billhook makes them.
        account, clock = Policy(retry_days=()), FakeClock.running()
        with FakeStripe(webhook_secret=secret, webhook_url=ingress, policy=account, clock=clock) as stripe:
            with env.database.begin() as tx:
                set_api_key(tx, source_id, env.vault.seal(stripe.api_key), stripe.url)
            arrived = _play(console, _acts(stripe, env, merchant, source_id), arrivals)
            files = _wait_for_files(env, merchant) if arrived else []
        with env.database.begin() as tx:  # nobody will be at these addresses any more
            disable_source(tx, source_id, env.clock())
            set_disabled(tx, endpoint_id, env.clock(), "the demo is over")
        _report(console, env, endpoint_id, arrivals, files)
    return 0 if arrived and files else 1


@contextmanager
def _product(settings: Settings, console: Console) -> Iterator[Env]:
    """The product that is running, or one started for as long as this takes."""
    env = Env(settings)
    started = None
    if not is_ready(settings.host, settings.ingress_port):
        console.print("billhook is not running: starting it (log: var/demo.log)")
        settings.var.mkdir(parents=True, exist_ok=True)
        with (settings.var / "demo.log").open("ab") as log:
            command = [sys.executable, "-m", "billhook.cli.main", "up"]
            networks = ",".join(filter(None, (settings.allowed_networks, LOOPBACK)))
            allowed = {"BILLHOOK_ALLOW_HTTP": "true", "BILLHOOK_ALLOWED_NETWORKS": networks}
            started = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **allowed}
            )
        if not wait_until_ready(settings, service_names(), threading.Event()):
            console.print("billhook did not become ready within a minute; see var/demo.log")
    try:
        yield env
    finally:
        env.close()
        if started is not None:
            started.terminate()
            started.wait()


@contextmanager
def _receiver(env: Env) -> Iterator[tuple[str, Arrivals]]:
    """A merchant's endpoint, here."""
    arrivals = Arrivals(new_signing_secret())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            arrivals.add({name.lower(): value for name, value in self.headers.items()}, body, env)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/webhooks", arrivals
    finally:
        server.shutdown()
        server.server_close()


def _register(env: Env, url: str, endpoint_secret: str) -> tuple[Merchant, str, str, str]:
    secret = new_signing_secret()
    now = env.clock()
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Demo Books Ltd", now, demo=True)
        source = create_source(tx, merchant.id, "stripe", "demo", env.vault.seal(secret), now, livemode=False)
        endpoint = create_endpoint(
            tx, merchant.id, url, ["*"], env.vault.seal(endpoint_secret), now, description="demo"
        )
    return merchant, source.id, endpoint.id, secret


def _play(console: Console, acts: Iterator[None], arrivals: Arrivals) -> bool:
    """Go through the story, each chapter when the news of the one before has arrived."""
    states = ["waiting"] * len(STORY)

    def shown() -> Table:
        table = Table("what happens", "what the merchant hears", "", box=None, pad_edge=False)
        for (what, news), state in zip(STORY, states, strict=True):
            for line, name in enumerate(news):
                heard = "✓" if arrivals.count(name) else "·"
                table.add_row("" if line else what, f"{heard} {name}", "" if line else state)
        return table

    with Live(shown(), console=console, refresh_per_second=12) as live:
        for chapter, (_, news) in enumerate(STORY):
            states[chapter] = "under way"
            began = time.monotonic()
            next(acts)
            complete = arrivals.wait_for(news)
            states[chapter] = f"{1000 * (time.monotonic() - began):.0f} ms" if complete else "did not arrive"
            live.update(shown())
            if not complete:
                return False
    return True


def _acts(stripe: FakeStripe, env: Env, merchant: Merchant, source_id: str) -> Iterator[None]:
    """What the merchant's own system would do at Stripe, by the official SDK."""
    from stripe import StripeClient

    v1 = StripeClient(stripe.api_key, base_addresses={"api": stripe.url}).v1
    product = v1.products.create({"name": "Reading club"})
    price = v1.prices.create(
        {"product": product.id, "currency": "eur", "unit_amount": 1900, "recurring": {"interval": "month"}}
    )
    customer = v1.customers.create(
        {
            "name": "Ada Lovelace",
            "email": "ada@example.com",
            "address": {"line1": "12 St James's Square", "city": "London", "postal_code": "SW1Y 4JH", "country": "GB"},
        }
    )
    yield
    _pay_with(v1, customer.id, "pm_card_visa")
    v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id, "quantity": 2}]})
    yield
    yield
    _dun(env, merchant, "merchant", "", PATIENT)
    _pay_with(v1, customer.id, "pm_card_chargeCustomerFail")
    stripe.advance(days=32)
    yield
    yield
    _pay_with(v1, customer.id, "pm_card_visa")
    yield
    other = v1.customers.create({"name": "Charles Babbage", "email": "charles@example.com"})
    _dun(env, merchant, "customer", other.id, STRICT)
    _pay_with(v1, other.id, "pm_card_visa")
    v1.subscriptions.create({"customer": other.id, "items": [{"price": price.id, "quantity": 1}]})
    _pay_with(v1, other.id, "pm_card_chargeCustomerFail")
    stripe.advance(days=32)
    yield
    began = stripe.clock.now()
    stripe.faults.webhooks("drop", type="product.updated")
    v1.products.update(product.id, {"description": "Two books a month"})
    _reconcile(env, merchant, source_id, began, stripe.clock.now())
    yield


def _reconcile(env: Env, merchant: Merchant, source_id: str, since: datetime, until: datetime) -> None:
    """Compare what the fake's log has of this time with what came. By itself the reconciler does so every hour, and
    waits two minutes for what may be on its way."""
    new = NewRun(
        merchant_id=merchant.id,
        source_id=source_id,
        since=since - timedelta(seconds=1),
        until=until + timedelta(seconds=1),
        lists=["events"],
        repairs=True,
        by="demo",
    )
    now = env.clock()
    with env.database.begin() as tx:
        run_id = begin_run(tx, new, now)
    ring(env, {reconciliation_runs.name: [run_id]})


def _dun(env: Env, merchant: Merchant, kind: str, scope: str, policy: DunningPolicy) -> None:
    with env.database.begin() as tx:
        set_policy(tx, merchant.id, kind, scope, policy, env.clock(), by="demo")


def _pay_with(v1: Any, customer: str, card: str) -> None:
    attached = v1.payment_methods.attach(card, {"customer": customer})
    v1.customers.update(customer, {"invoice_settings": {"default_payment_method": attached.id}})


def _wait_for_files(env: Env, merchant: Merchant) -> list[tuple[str, str]]:
    """The documents of the paid invoice, once they are made: (kind, where)."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with env.database.read() as tx:
            paid = book.list_objects(tx, "invoice", merchant_id=merchant.id, status="paid")
            documents = [row for invoice in paid for row in list_documents(tx, invoice["id"])]
        if documents and all(row["state"] == "ready" for row in documents):
            return [(row["kind"], _place(env, row["object_key"])) for row in documents]
        time.sleep(0.1)
    return []


def _place(env: Env, key: str) -> str:
    objects = env.settings.objects
    return str(Path(objects.removeprefix("file://")) / key) if objects.startswith("file://") else f"{objects}/{key}"


def _refusal(env: Env, endpoint_id: str) -> str | None:
    """Why nothing was posted here, if billhook is told to post to public addresses alone."""
    with env.database.read() as tx:
        sent = list_deliveries(tx, merchant_id=None, endpoint_id=endpoint_id, limit=1)
        tried = [attempt for row in sent for attempt in list_attempts(tx, [row["id"]], merchant_id=row["merchant_id"])]
    return next((attempt["error"] for attempt in tried if attempt["outcome"] == "refused"), None)


def _report(console: Console, env: Env, endpoint_id: str, arrivals: Arrivals, files: list[tuple[str, str]]) -> None:
    verified = sum(1 for _, ok, _ in arrivals.seen if ok)
    if not verified and (refusal := _refusal(env, endpoint_id)):
        console.print(f"\nThe demo's receiver got nothing: {refusal}.")
        console.print(
            f"Start billhook with BILLHOOK_ALLOW_HTTP=true BILLHOOK_ALLOWED_NETWORKS={LOOPBACK}, or stop it first."
        )
    console.print(f"\n{verified} of {len(arrivals.seen)} webhooks arrived with a signature that verifies:")
    for name in sorted({name for name, _, _ in arrivals.seen}):
        console.print(f"  {arrivals.count(name):>2} × {name}")
    console.print()
    for kind, place in files:
        console.print(f"{kind.capitalize()} PDF   {place}", soft_wrap=True)
    if not files:
        console.print("The PDFs are not there yet: `billhook dead-letters list` tells what went wrong.")
    settings = env.settings
    console.print("\nWhere to look next (while `make run` is up):")
    console.print("  console   .venv/bin/billhook operators sign-in")
    console.print(f"  the book  {settings.address_of('desk')}/docs")
    console.print("  events    .venv/bin/billhook events list")
    console.print(f"  metrics   {settings.address_of('bookkeeper')}/metrics")


if __name__ == "__main__":
    # Ends as Ctrl-C does: a product that was started for the demo is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run_demo(read_settings()))
