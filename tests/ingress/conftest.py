from collections.abc import Iterator
from pathlib import Path

import pytest
from ingress.asgi import Client, running
from ingress.sender import SECRET, Door

from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.store import merchants, sources
from billhook.store.database import Database
from services.ingress.app import build


@pytest.fixture
def env(database: Database, tmp_path: Path) -> Iterator[Env]:
    """The queue's address is nobody's: the door must not need it."""
    url = database.url.render_as_string(hide_password=False)
    env = Env(Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0"))
    env.make_encryption_key()
    yield env
    env.close()


@pytest.fixture
def client(env: Env) -> Iterator[Client]:
    with running(build(env, Health())) as client:
        yield client


@pytest.fixture
def door(env: Env, client: Client) -> Door:
    with env.database.begin() as tx:
        merchant = merchants.create_merchant(tx, "Acme", env.clock())
        sealed = env.vault.seal(SECRET)
        stripe = sources.create_source(tx, merchant.id, "stripe", "s", sealed, env.clock())
        own = sources.create_source(tx, merchant.id, "standard", "o", sealed, env.clock())
    return Door(client, env, merchant.id, stripe.id, own.id)
