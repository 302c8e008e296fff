"""The ingress while its database is away or silent, and what it honours when it comes back from a quiet time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ingress.asgi import running
from ingress.sender import SECRET, Door, stripe_event

from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.store import merchants, sources
from billhook.store.database import Database
from billhook.store.vault import new_key
from billhook_testing.servers import PostgresServer
from services.ingress import sources as directory
from services.ingress.app import build


@pytest.fixture
def server(fragile_postgres: PostgresServer) -> PostgresServer:
    return fragile_postgres


@pytest.fixture
def env(server: PostgresServer, fragile_template: str, tmp_path: Path) -> Iterator[Env]:
    url = server.create_database(fragile_template)
    env = Env(Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0"))
    env.make_encryption_key()
    yield env
    env.close()


def with_source(env: Env) -> tuple[str, str]:
    with env.database.begin() as tx:
        merchant = merchants.create_merchant(tx, "Acme", env.clock())
        sealed = env.vault.seal(SECRET)
        return merchant.id, sources.create_source(tx, merchant.id, "stripe", "s", sealed, env.clock()).id


@pytest.mark.timeout(60)
def test_a_database_that_stands_still_is_a_503_and_works_again(
    env: Env, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    merchant, source = with_source(env)
    with running(build(env, Health())) as client:
        door = Door(client, env, merchant, source, "")
        assert door.stripe(stripe_event("evt_1")).status == 200
        server.freeze()
        crowd = [(door.path(), stripe_event(f"evt_{n}"), door.signed(stripe_event(f"evt_{n}"))) for n in range(2, 40)]
        answers = client.posts(crowd)
        server.thaw()
        assert {(answer.status, answer.code) for answer in answers} == {(503, "store_unavailable")}
        assert all(answer.headers["retry-after"] == "5" for answer in answers)
        # Those who gathered behind the first did not wait for a second time-out.
        assert sum("the database is away" in record.message for record in caplog.records) == 1
        until_accepted(door, "evt_2")


@pytest.mark.timeout(60)
def test_an_ingress_that_never_saw_its_sources_does_not_deny_them(env: Env, server: PostgresServer) -> None:
    """A 404 tells a sender to correct the address and to give the event up."""
    merchant, source = with_source(env)
    env.database.close()
    server.kill()
    with running(build(env, Health())) as client:
        door = Door(client, env, merchant, source, "")
        answer = door.stripe(stripe_event("evt_1"))
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "source_unavailable", "5")
        server.start()
        until_accepted(door, "evt_1")
        assert door.client.post(door.path("src_none"), stripe_event("evt_1")).status == 404


def test_before_migrations_ran_nothing_is_denied(server: PostgresServer, tmp_path: Path) -> None:
    env = Env(Settings(var=tmp_path, database_url=server.create_database(), queue_url="redis://127.0.0.1:1/0"))
    env.make_encryption_key()
    with running(build(env, Health())) as client:
        answer = Door(client, env, "", "src_1", "").stripe(stripe_event("evt_1"))
    assert (answer.status, answer.code) == (503, "source_unavailable")
    env.close()


def test_a_source_whose_secret_does_not_open_is_not_denied(env: Env) -> None:
    merchant, source = with_source(env)
    lost = Env(replace(env.settings, encryption_keys=new_key()))
    with running(build(lost, Health())) as client:
        answer = Door(client, lost, merchant, source, "").stripe(stripe_event("evt_1"))
        assert (answer.status, answer.code) == (503, "source_unavailable")
        assert Door(client, lost, merchant, "src_none", "").stripe(stripe_event("evt_1")).status == 404
    lost.close()


def test_after_a_quiet_time_a_revoked_source_is_not_honoured_once_more(database: Database, env_of_quiet: Env) -> None:
    merchant, source = with_source(env_of_quiet)
    with running(build(env_of_quiet, Health())) as client:
        door = Door(client, env_of_quiet, merchant, source, "")
        assert door.stripe(stripe_event("evt_1")).status == 200
        with env_of_quiet.database.begin() as tx:
            sources.disable_source(tx, source, env_of_quiet.clock())
        quiet = time.monotonic() + directory.FRESH_SECONDS
        while time.monotonic() < quiet:
            time.sleep(0.05)
        crowd = [(door.path(), stripe_event(f"evt_{n}"), door.signed(stripe_event(f"evt_{n}"))) for n in range(2, 66)]
        assert {answer.status for answer in client.posts(crowd)} == {404}


def test_a_source_that_was_just_made_is_known(database: Database, env_of_quiet: Env) -> None:
    with running(build(env_of_quiet, Health())) as client:
        for number in range(3):  # also when somebody asked for an unknown one a moment before
            merchant, source = with_source(env_of_quiet)
            door = Door(client, env_of_quiet, merchant, source, "")
            assert door.stripe(stripe_event(f"evt_{number}")).status == 200


@pytest.fixture
def env_of_quiet(database: Database, tmp_path: Path) -> Iterator[Env]:
    url = database.url.render_as_string(hide_password=False)
    env = Env(Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0"))
    env.make_encryption_key()
    yield env
    env.close()


def until_accepted(door: Door, event_id: str) -> None:
    """As a sender does: again until there is a 2xx."""
    deadline = time.monotonic() + 30
    while door.stripe(stripe_event(event_id)).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (event_id,) in door.stored("external_id")
