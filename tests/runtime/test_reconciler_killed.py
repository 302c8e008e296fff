"""Killed in the middle of a run and of a replay, a reconciler and a relay go on and end as if nothing had been."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from runtime.killing import Installation, eventually, kill
from store.history import made

from billhook.actions.inbox_replay import begin_replay
from billhook.actions.reconciliation import begin_run, run_of
from billhook.runtime.env import Env
from billhook.store.bulk import insert_many
from billhook.store.inbox import inbox
from billhook.store.merchants import create_merchant
from billhook.store.reconciliation import get_run, list_findings, reconciliation_runs
from billhook.store.replays import event_replay, get_replay
from billhook.store.sources import create_source, get_source
from billhook.store.work import DUE
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.servers import ValkeyServer

LOST = 210
"""Events that never came: three pages of them."""
OLD = 2100
"""Events to replay: more than a job lets wait at once."""


def test_a_run_and_a_replay_killed_in_the_middle_go_on_and_end_the_same(tmp_path: Path, valkey: ValkeyServer) -> None:
    # One call a second, so that there is a middle.
    installation = Installation(tmp_path, valkey, None, provider_calls_per_second="1")
    env = installation.env
    with FakeStripe() as fake:
        run_id, replay_id = begin(env, fake)

        def compared() -> int:
            with env.database.read() as tx:
                run = get_run(tx, run_id)
            assert run is not None
            return run.compared if run.state == DUE else -1

        def put_back() -> int:
            with env.database.read() as tx:
                job = get_replay(tx, replay_id)
            assert job is not None
            return job.matched if job.state == DUE else -1

        with installation.running("reconciler", "relay") as processes:
            eventually(lambda: 0 < compared() < LOST and put_back() > 0, "being in the middle")
            kill(processes)
        assert 0 < compared() < LOST
        assert 0 < put_back() < OLD
        with installation.running("reconciler", "relay"):
            eventually(lambda: post(env) and (compared(), put_back()) == (-1, -1), "the end of both")

    with env.database.read() as tx:
        run, job = get_run(tx, run_id), get_replay(tx, replay_id)
        found = list_findings(tx, states=["repaired"], limit=1000)
        came = tx.execute(sa.select(sa.func.count()).where(inbox.c.external_id.like("evt%"))).scalar()
    assert run is not None
    assert job is not None
    assert (run.state, run.confirmed, run.repaired, len(found), came) == ("done", LOST, LOST, LOST, LOST)
    assert (job.phase, job.matched, job.progress) == ("done", OLD, 1.0)
    env.close()


def begin(env: Env, fake: FakeStripe) -> tuple[str, str]:
    """Events that never came, others that came an hour ago, and a job for each."""
    v1, now = fake.client().v1, env.clock()
    for number in range(LOST):
        v1.customers.create({"name": f"Customer {number}"})
    fake.advance(hours=1)
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Acme", now)
        sealed = env.vault.seal(fake.api_key)
        source_id = create_source(
            tx,
            merchant.id,
            "stripe",
            "Stripe",
            env.vault.seal("whsec_1"),
            fake.clock.now() - timedelta(days=1),  # what was before is history
            api_key=sealed,
            api_base=fake.url,
            livemode=False,
        ).id
        old = {"merchant_id": merchant.id, "source_id": source_id, "account": "", "type": "x", "headers": b"{}"}
        old |= {"body": b"{}", "sha256": b"", "received_at": now, "due_at": now, "state": "processed"}
        at = now - timedelta(hours=1)
        insert_many(tx, inbox, [{**old, "id": made("evt", at), "external_id": f"old {n}"} for n in range(OLD)])
        source = get_source(tx, source_id)
        assert source is not None
        since = fake.clock.now() - timedelta(days=1)
        new = run_of(source, since, fake.clock.now() + timedelta(hours=1), by="test", lists=["events"])
        run_id = begin_run(tx, new, now)
        job = event_replay(merchant.id, since=at - timedelta(hours=1), until=at + timedelta(hours=1), by="t", now=now)
        begin_replay(tx, job)
    return run_id, job.id


def post(env: Env) -> bool:
    """As a bookkeeper would; and what waits for minutes falls due now."""
    old = (inbox.c.state == DUE, inbox.c.external_id.like("old%"))
    runs = reconciliation_runs.c
    with env.database.begin() as tx:
        tx.execute(sa.update(inbox).where(*old).values(state="processed"))
        # Once: the relay rings for what has been due for half a second, which a time that moves along never is.
        waiting = sa.update(reconciliation_runs).where(
            runs.state == DUE, runs.token.is_(None), runs.due_at > env.clock()
        )
        tx.execute(waiting.values(due_at=env.clock()))
    return True
