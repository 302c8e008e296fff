"""The dunner, killed with charges under way: none is lost, none is made twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from runtime.killing import Installation, eventually, kill
from store.dunning import new_attempt, new_case

from billhook.rules.dunning_policy import PRESETS
from billhook.runtime.env import Env
from billhook.store.dunning_cases import add_case, dunning_cases
from billhook.store.dunning_policies import set_policy
from billhook.store.merchants import create_merchant
from billhook.store.payment_attempts import add_attempt, payment_attempts
from billhook.store.sources import create_source
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.servers import PostgresServer, ValkeyServer

INVOICES = 24


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_dunner_killed_in_mid_charge_doubles_none_and_loses_none(
    backend: str, tmp_path: Path, postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    server = None if backend == "sqlite" else postgres
    installation = Installation(tmp_path, valkey, server, provider_calls_per_second="1000")
    env = installation.env
    with FakeStripe() as fake:
        fail_payments(env, fake)
        # The money is taken, and nobody hears of it.
        fake.faults.api("timeout_after", probability=1.0, path="/v1/invoices/", method="POST", hang_seconds=60)
        with installation.running("dunner") as first:
            eventually(lambda: sum(charges(fake).values()) >= 5, "charging")
            kill(first)
        assert "submitted" in states(env)

        fake.faults.clear()
        end_leases(env)
        with installation.running("dunner"):
            # What a busy machine leaves unanswered is asked again in five minutes: a test cannot wait for that.
            eventually(lambda: end_waits(env) == {"succeeded"}, "settling the rest")
        assert charges(fake) == dict.fromkeys(charges(fake), 1)
        assert len(charges(fake)) == INVOICES
    with env.database.read() as tx:
        stages = tx.execute(sa.select(dunning_cases.c.stage, sa.func.count()).group_by(dunning_cases.c.stage)).all()
    assert [tuple(row) for row in stages] == [("recovered", INVOICES)]
    env.close()


def fail_payments(env: Env, fake: FakeStripe) -> None:
    """Open invoices at the fake, each with a case and an attempt that is due."""
    v1, now = fake.client().v1, env.clock()
    customer = v1.customers.create({"name": "Ada"})
    method = v1.payment_methods.attach("pm_card_visa", {"customer": customer.id})
    v1.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Acme", now)
        version = set_policy(tx, merchant.id, "merchant", "", PRESETS["polar"], now, by="ada")
        source = create_source(
            tx,
            merchant.id,
            "stripe",
            "Stripe",
            env.vault.seal("whsec_1"),
            now,
            api_key=env.vault.seal(fake.api_key),
            api_base=fake.url,
        )
    far = now + timedelta(days=365)
    for _ in range(INVOICES):
        v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 1900})
        draft = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
        v1.invoices.finalize_invoice(str(draft.id))
        case = new_case(
            merchant.id, str(draft.id), source_id=source.id, policy_id=version.id, currency="usd", opened_at=now
        )
        with env.database.begin() as tx:
            add_case(tx, replace(case, grace_until=far, ends_at=far), now)
            add_attempt(tx, new_attempt(case, created_at=now))


def charges(fake: FakeStripe) -> dict[str, int]:
    """Successful charges, by the payment that belongs to one invoice."""
    with fake._api.lock:
        found = [charge for charge in fake.world.all("charge") if charge["status"] == "succeeded"]
    return dict(Counter(charge["payment_intent"] for charge in found))


def states(env: Env) -> dict[str, int]:
    query = sa.select(payment_attempts.c.status, sa.func.count()).group_by(payment_attempts.c.status)
    with env.database.read() as tx:
        return {row[0]: row[1] for row in tx.execute(query)}


def end_leases(env: Env) -> None:
    """As time does."""
    with env.database.begin() as tx:
        tx.execute(sa.update(payment_attempts).where(payment_attempts.c.state == "due").values(due_at=env.clock()))


def end_waits(env: Env) -> set[str]:
    """Let what nobody holds fall due now; returns how attempts stand."""
    c = payment_attempts.c
    with env.database.begin() as tx:
        tx.execute(sa.update(payment_attempts).where(c.state == "due", c.token.is_(None)).values(due_at=env.clock()))
    return set(states(env))
