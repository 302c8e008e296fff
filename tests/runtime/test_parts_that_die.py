"""A process whose committing thread has died ends, with the reason and a code that is not 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from billhook.runtime.valkey import free_port
from billhook.store import migrate
from billhook.store.merchants import create_key, create_merchant
from billhook.store.vault import new_key

PROCESS = """
import sys
from billhook.actions.publishing import Publisher
from billhook.runtime import process
def die(self, wanted):
    raise SystemExit("out of memory")
Publisher.__call__ = die
sys.argv = ["billhook", "desk"]
sys.exit(process.main())
"""


@pytest.mark.timeout(120)
def test_a_desk_that_cannot_commit_any_more_ends_with_the_reason(tmp_path: Path) -> None:
    port = free_port()
    chosen = {
        "var": str(tmp_path),
        "desk_port": str(port),
        "encryption_keys": new_key(),
        "queue_url": "redis://127.0.0.1:1/0",
    }
    env = Env(read_settings(**chosen))
    migrate.upgrade(env.database)
    with env.database.begin() as tx:
        merchant = create_merchant(tx, "Acme", env.clock())
        _, key = create_key(tx, merchant.id, "program", env.clock())
    env.close()
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        env={f"BILLHOOK_{name.upper()}": value for name, value in chosen.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        try:
            answer = requests.post(
                f"http://127.0.0.1:{port}/v1/messages",
                json={"event_type": "order.shipped", "data": {}},
                headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "one"},
                timeout=30,
            )
        except requests.ConnectionError:
            continue
        assert answer.status_code == 500
        break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "out of memory" in said
    assert "so it ends" in said
