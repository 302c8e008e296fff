"""Real servers, started for the first test that asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from store.databases import blank_url, database, fragile_template, migrated, postgres_database, postgres_template

from billhook_testing.postgres_installation import NoServer
from billhook_testing.servers import PostgresServer, ValkeyServer, postgres_server, valkey_server

# Here and nowhere else: a session's fixture that several of these files name is made once for each.
__all__ = ["blank_url", "database", "fragile_template", "migrated", "postgres_database", "postgres_template"]

ROOT = Path(__file__).parent.parent

# On a busy machine any example may take any time: how long one took says nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Tests throw half characters at everything and everything logs them, but a worker can only report whole ones."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session; each test takes a database of its own with `create_database()`."""
    yield from _postgres()


@pytest.fixture(scope="session")
def fragile_postgres() -> Iterator[PostgresServer]:
    """Another one, to be killed and frozen. Whoever does that leaves it running."""
    yield from _postgres()


def _postgres() -> Iterator[PostgresServer]:
    try:
        with postgres_server(fast=True) as server:
            yield server
    except NoServer as error:
        # At a desk a missing server costs its tests; in CI it would hide them.
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One Valkey for the session; a test that uses it begins with an empty one by flushing it."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Recorded events and API answers of the providers: public material of others, kept beside the checkout."""
    path = Path(os.environ.get("BILLHOOK_RECORDINGS") or ROOT.parent / "shared" / "recordings").resolve()
    if not path.is_dir():
        pytest.skip(f"No recordings at {path}; BILLHOOK_RECORDINGS can name another place.")
    return path
