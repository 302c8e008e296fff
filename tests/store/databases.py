"""One migrated database a dialect for the session, emptied for each test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billhook.store import (
    book,
    connected_accounts,
    dunning_cases,
    dunning_policies,
    file_walks,
    links,
    merchant_views,
    merchants,
    migrate,
    operator_actions,
    operators,
    own_credit_notes,
    own_invoices,
    provider_limits,
    publications,
    queue_pauses,
    queues,
    series,
    sources,
    standings,
    templates,
)
from billhook.store.database import Database
from billhook_testing.servers import PostgresServer

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
PATIENCE = 60.0
"""A machine that runs four tests at once may stand still for longer than a sender would be left waiting."""

TABLES = book.metadata.sorted_tables
"""Every table, the ones that others refer to first."""
assert {
    *queues.QUEUES.values(),
    *book.TABLES.values(),
    connected_accounts.connected_accounts,
    dunning_cases.dunning_steps,
    dunning_policies.dunning_policies,
    file_walks.file_walks,
    links.hosted_links,
    merchant_views.merchant_views,
    merchants.merchants,
    operator_actions.operator_actions,
    operators.operators,
    own_credit_notes.own_credit_notes,
    own_invoices.own_invoices,
    provider_limits.provider_limits,
    publications.idempotency_keys,
    queue_pauses.queue_pauses,
    series.number_series,
    sources.sources,
    standings.customer_standings,
    templates.templates,
} <= set(TABLES)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A migrated database that tests share; what is in it is nobody's concern."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_database(request.getfixturevalue("postgres_template"))
    else:
        path = tmp_path_factory.mktemp("sqlite") / "billhook.db"
        lay_ledger(path)
        url = f"sqlite:///{path}"
    database = Database(url, answer_seconds=PATIENCE)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """A migrated database to copy: that takes a tenth of the time of migrating another one."""
    url = postgres.create_database()
    _migrate(url)
    return url


@pytest.fixture(scope="session")
def fragile_template(fragile_postgres: PostgresServer) -> str:
    """The same on the server that may be killed."""
    url = fragile_postgres.create_database()
    _migrate(url)
    return url


def lay_ledger(path: Path) -> None:
    """Put a migrated SQLite database there, with nothing in it."""
    shutil.copyfile(_ledger(), path)


@functools.cache
def _ledger() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="billhook-ledger-"))
    atexit.register(shutil.rmtree, directory)
    _migrate(f"sqlite:///{directory / 'billhook.db'}")
    return directory / "billhook.db"


def _migrate(url: str) -> None:
    with contextlib.closing(Database(url)) as database:
        migrate.upgrade(database)


@pytest.fixture
def database(migrated: Database) -> Database:
    """A migrated database with nothing in it."""
    emptied = [f"DELETE FROM {table.name}" for table in reversed(TABLES)]
    with migrated.begin() as tx:
        for statement in emptied if migrated.sqlite else ["; ".join(emptied)]:
            tx.exec_driver_sql(statement)
    return migrated


Backup = Mapping[str, Sequence[Mapping[str, Any]]]


def back_up(database: Database) -> Backup:
    """All its rows."""
    with database.read() as tx:
        return {table.name: [dict(row) for row in tx.execute(table.select()).mappings()] for table in TABLES}


def restore(database: Database, backup: Backup) -> None:
    """Nothing is in it but these."""
    with database.begin() as tx:
        for table in reversed(TABLES):
            tx.execute(table.delete())
        for table in TABLES:
            if backup[table.name]:
                tx.execute(table.insert(), [*backup[table.name]])


@pytest.fixture
def postgres_database(postgres: PostgresServer, postgres_template: str) -> Iterator[Database]:
    """A migrated database on PostgreSQL, for what SQLite has no word for."""
    database = Database(postgres.create_database(postgres_template), answer_seconds=PATIENCE)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database without a schema."""
    return new_url(request, tmp_path_factory)


def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/billhook.db"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.create_database()
