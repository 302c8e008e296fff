"""The servers that other tests lean on: they start, die, come back, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from billhook.errors import SettingsError
from billhook.runtime.valkey import HOST, EmbeddedValkey, free_port, port_is_free
from billhook_testing.servers import PostgresServer, ValkeyServer, postgres_server, valkey_server

PARENT = """
import pathlib, sys
from billhook.runtime.valkey import EmbeddedValkey
EmbeddedValkey(pathlib.Path(sys.argv[1]), port=int(sys.argv[2])).start()
print("up", flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def client(valkey: EmbeddedValkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url)


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True)


def test_valkey_is_durable_and_evicts_nothing(tmp_path: Path) -> None:
    with valkey_server(tmp_path / "valkey") as valkey, client(valkey) as redis_client:
        settings = redis_client.config_get("append*", "maxmemory-policy", "bind", "protected-mode")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["protected-mode"] == "yes"
    assert settings["bind"] == HOST
    assert valkey.url.endswith("/0?socket_timeout=2&socket_connect_timeout=1&health_check_interval=15")


def test_valkey_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    with valkey, client(valkey) as redis_client:
        redis_client.set("ring", "1")
    assert valkey.pid is None
    with valkey, client(valkey) as redis_client:
        assert redis_client.get("ring") == b"1"


def test_stopping_twice_or_unstarted_is_harmless(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    valkey.stop()
    valkey.start()
    valkey.start()
    valkey.stop()
    valkey.stop()
    assert valkey.death is None


def test_a_death_is_reported_and_a_new_start_has_the_same_address(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as valkey:
        url, pid = valkey.url, valkey.pid
        assert pid is not None
        assert valkey.death is None
        os.kill(pid, signal.SIGKILL)
        until(lambda: valkey.pid is None)
        assert "ended by itself: killed by SIGKILL" in str(valkey.death)
        valkey.start()
        assert valkey.death is None
        assert valkey.url == url
        with client(valkey) as redis_client:
            assert redis_client.ping()


def test_a_directory_serves_one_valkey(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as first, pytest.raises(SettingsError, match=f"running .process {first.pid}"):
        EmbeddedValkey(tmp_path).start()


def test_a_port_that_is_taken_is_refused_by_name(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"{HOST}:{port}"):
            EmbeddedValkey(tmp_path, port=port).start()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="the system cannot end a child with its parent")
def test_valkey_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert not port_is_free(port)
        parent.kill()
        until(lambda: port_is_free(port))
    # And the directory is free again at once, whatever lies in it.
    with EmbeddedValkey(tmp_path):
        pass


def test_a_frozen_valkey_answers_nobody_until_it_thaws(valkey: ValkeyServer) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(host=HOST, port=valkey.port, socket_timeout=0.2, retry=once) as redis_client:
        assert redis_client.ping()
        valkey.freeze()
        with pytest.raises(redis.TimeoutError):
            redis_client.ping()
        valkey.thaw()
    with client(valkey) as redis_client:
        assert redis_client.ping()


def test_a_valkey_comes_back_with_or_without_its_memory(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as valkey, client(valkey) as redis_client:
        redis_client.set("ring", "1")
        valkey.restart()
        assert client(valkey).get("ring") == b"1"
        valkey.restart(keep_data=False)
        assert client(valkey).get("ring") is None


def test_each_database_is_new_and_empty(postgres: PostgresServer) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    assert first.startswith("postgresql+psycopg://")
    with connect(first) as connection:
        connection.execute("CREATE TABLE money (amount bigint)")
    with connect(second) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert row == (0,)


def test_postgres_is_fit_and_asks_for_a_password(postgres: PostgresServer) -> None:
    with connect(postgres.url) as connection:
        row = connection.execute("SELECT current_setting('server_version_num')::int >= 150000").fetchone()
    assert row == (True,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=HOST, port=postgres.port, user="postgres", dbname="postgres", password="guess")


def test_what_was_committed_survives_a_killed_postgres(tmp_path: Path) -> None:
    with postgres_server(tmp_path) as postgres:
        url = postgres.create_database()
        with connect(url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            connection.execute("CREATE TABLE event (id bigint)")
            connection.execute("INSERT INTO event VALUES (1)")
            postgres.kill()
            assert postgres.pid is None
            postgres.start()
        with connect(url) as connection:
            assert connection.execute("SELECT id FROM event").fetchone() == (1,)
        pid = postgres.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []
