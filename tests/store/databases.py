"""One migrated database a dialect for the session, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from billhook.store import (
    book,
    dunning_cases,
    dunning_policies,
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
    dunning_cases.dunning_steps,
    dunning_policies.dunning_policies,
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
    database = Database(new_url(request, tmp_path_factory), answer_seconds=PATIENCE)
    migrate.upgrade(database)
    yield database
    database.close()


@pytest.fixture
def database(migrated: Database) -> Database:
    """A migrated database with nothing in it."""
    with migrated.begin() as tx:
        for table in reversed(TABLES):
            tx.execute(table.delete())
    return migrated


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[Database]:
    """A migrated database on PostgreSQL, for what SQLite has no word for."""
    database = Database(postgres.create_database(), answer_seconds=PATIENCE)
    migrate.upgrade(database)
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
