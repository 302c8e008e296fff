"""The migrations make the tables that the code speaks of, once, whoever starts first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from store.databases import NOW

from billhook.errors import SettingsError
from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.store import fitness, migrate
from billhook.store.book import Entry, apply, list_objects
from billhook.store.database import Database
from billhook.store.deliveries import deliveries
from billhook.store.documents import NewDocument, add_documents, list_documents
from billhook.store.endpoints import endpoints
from billhook.store.merchants import get_merchant
from billhook.store.publications import find_used_keys
from billhook.store.schema import metadata, with_conditions
from billhook_testing.servers import PostgresServer

NEWEST = max(path.name for path in (Path(migrate.__file__).parent / "migrations" / "versions").glob("0*.py"))[:4]

UPGRADE = """
import sys
from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.store import fitness, migrate
from billhook.store.book import Entry, apply, list_objects
from billhook.store.database import Database
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
migrate.upgrade(database)
database.close()
"""

# Not the place of a column: a later migration can only append one, wherever the table's own file shows it.
SQLITE_CATALOGUE = """
SELECT t.name || '.' || c.name, c.type || ' ' || c."notnull" || ' ' || coalesce(c.dflt_value, '-') || ' ' || c.pk
  FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name <> 'alembic_version'
UNION ALL
SELECT t.name || ' refers ' || k."from", k."table" || ' ' || k."to" || ' ' || k.on_update || ' ' || k.on_delete
  FROM sqlite_master t, pragma_foreign_key_list(t.name) k WHERE t.type = 'table'
UNION ALL
SELECT t.name || ' unique ' || group_concat(c.name), i.origin
  FROM sqlite_master t, pragma_index_list(t.name) i, pragma_index_info(i.name) c
 WHERE t.type = 'table' AND t.name <> 'alembic_version' AND i.origin <> 'c' GROUP BY t.name, i.name, i.origin
UNION ALL
SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name <> 'alembic_version' AND sql IS NOT NULL
"""
# Not the names of NOT NULL constraints, which PostgreSQL 18 gives and no renaming of a column changes.
POSTGRESQL_CATALOGUE = """
SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default)
  FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION ALL
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass AND contype <> 'n'
"""


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def catalogue(database: Database) -> dict[str, str]:
    """What the database itself says of its columns, indexes and constraints, by name."""
    query = SQLITE_CATALOGUE if database.sqlite else POSTGRESQL_CATALOGUE
    with database.begin() as tx:
        rows = tx.exec_driver_sql(query).all()
    return {name: canonical(text) if database.sqlite else text for name, text in rows}


def canonical(ddl: str) -> str:
    """A CREATE statement with the lines between its parentheses in one order."""
    return "\n".join(sorted(line.strip(" \t,") for line in ddl.splitlines()))


def test_alembic_finds_no_difference_between_the_migrations_and_the_tables(migrated: Database) -> None:
    with migrated.begin() as tx:
        context = MigrationContext.configure(tx, opts={"compare_server_default": True})
        assert compare_metadata(context, with_conditions()) == []


def test_the_migrated_schema_is_to_the_letter_the_one_the_tables_describe(blank_url: str) -> None:
    with opened(blank_url) as database:
        migrate.upgrade(database)
        migrated = catalogue(database)
        with database.begin() as tx:
            metadata.drop_all(tx)
            with_conditions().create_all(tx)
        assert len(migrated) > 60
        assert migrated == catalogue(database)


def test_an_upgrade_is_pending_until_it_is_done(blank_url: str) -> None:
    with opened(blank_url) as database:
        assert fitness.revision(database) is None
        assert fitness.misfit(database)
        migrate.upgrade(database)
        assert fitness.revision(database) == NEWEST
        assert not fitness.misfit(database)
        migrate.upgrade(database)
        assert fitness.revision(database) == NEWEST


def test_what_was_due_before_lanes_is_due_in_the_lane_it_belongs_to(blank_url: str) -> None:
    with opened(blank_url) as database:
        with database.begin() as tx:
            config = migrate._config()
            config.attributes["connection"] = tx
            command.upgrade(config, "0001")
            at = 1 if database.sqlite else "'1970-01-01T00:00:00Z'"
            tx.exec_driver_sql(
                f"INSERT INTO endpoints VALUES ('ep', 'mrc', 'https://a.test', '', '[]', 'x', {at}, NULL, NULL)"
            )
            tx.exec_driver_sql(
                f"INSERT INTO messages VALUES ('msg', 'mrc', 't', 'k', 'o', 'x', 'evt', 0, {at}, {at}),"
                f" ('other', 'mrc', 't', 'k', 'o', 'x', 'evt', 1, {at}, {at})"
            )
            tx.exec_driver_sql(
                "INSERT INTO deliveries (id, merchant_id, message_id, endpoint_id, created_at, state, due_at, attempts)"
                f" VALUES ('new', 'mrc', 'msg', 'ep', {at}, 'due', {at}, 0),"
                f" ('tried', 'mrc', 'other', 'ep', {at}, 'due', {at}, 3)"
            )
        migrate.upgrade(database)
        with database.read() as tx:
            lanes = {row.id: row.lane for row in tx.execute(sa.select(deliveries))}
            assert lanes == {"new": "fresh", "tried": "retry"}
            assert tx.execute(sa.select(endpoints.c.ordering, endpoints.c.notices)).one() == ("none", 0)


def test_documents_of_before_keep_their_files_and_are_of_the_first_look(blank_url: str) -> None:
    with opened(blank_url) as database:
        with database.begin() as tx:
            config = migrate._config()
            config.attributes["connection"] = tx
            command.upgrade(config, "0002")
            at = 1 if database.sqlite else "'1970-01-01T00:00:00Z'"
            tx.exec_driver_sql(f"INSERT INTO merchants VALUES ('mrc', 'Acme', 'de', {at}, NULL)")
            tx.exec_driver_sql(
                "INSERT INTO documents (id, merchant_id, invoice_id, kind, snapshot, created_at, object_key, sha256,"
                " size, state, due_at, attempts) VALUES"
                f" ('made', 'mrc', 'inv', 'invoice', '{{}}', {at}, 'a.pdf', 'ab', 7, 'ready', {at}, 1),"
                f" ('asked', 'mrc', 'inv', 'receipt', '{{}}', {at}, NULL, NULL, NULL, 'due', {at}, 0)"
            )
        migrate.upgrade(database)
        with database.begin() as tx:
            made, asked = list_documents(tx, "inv")
            assert (made["id"], made["object_key"], made["size"], made["state"]) == ("made", "a.pdf", 7, "ready")
            assert (asked["id"], asked["state"]) == ("asked", "due")
            assert {(row["template"], row["engine"], row["e_invoice"]) for row in (made, asked)} == {
                ("billhook-1", None, False)
            }
            again = NewDocument("mrc", "inv", "invoice", "billhook-1", b"")
            assert add_documents(tx, [again], NOW) == []
            merchant = get_merchant(tx, "mrc")
            assert merchant is not None
            assert (merchant.seller.name, merchant.contact_email) == ("Acme", None)


def test_processes_that_start_together_upgrade_once(blank_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", UPGRADE, blank_url]
    pipe = subprocess.PIPE
    starting = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in starting:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in starting:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in starting] == [("", 0)] * 2
    with opened(blank_url) as database:
        assert not fitness.misfit(database)


def test_an_upgrade_that_breaks_off_leaves_nothing_behind(blank_url: str) -> None:
    with opened(blank_url) as database:
        with database.begin() as tx:
            tx.exec_driver_sql("CREATE TABLE deliveries (id INTEGER)")
        with pytest.raises(sa.exc.DBAPIError):
            migrate.upgrade(database)
        assert fitness.revision(database) is None
        with database.read() as tx:
            assert sa.inspect(tx).get_table_names() == ["deliveries"]


def test_the_database_of_a_newer_billhook_is_refused_with_a_reason(blank_url: str) -> None:
    with opened(blank_url) as database:
        migrate.upgrade(database)
        with database.begin() as tx:
            tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        assert fitness.misfit(database)
        with pytest.raises(SettingsError, match="schema 9999"):
            migrate.upgrade(database)


def test_postgresql_vacuums_the_tables_of_work_early(postgres: PostgresServer) -> None:
    with opened(postgres.create_database()) as database:
        migrate.upgrade(database)
        with database.read() as tx:
            tuned = tx.exec_driver_sql(
                "SELECT relname FROM pg_class WHERE 'autovacuum_vacuum_scale_factor=0.01' = ANY (reloptions)"
            ).scalars()
            assert set(tuned) == {"inbox", "documents", "deliveries", "mails"}


def test_objects_of_before_there_was_one_unique_index_are_kept_and_change(blank_url: str) -> None:
    at, no = (1, 0) if blank_url.startswith("sqlite") else ("'1970-01-01T00:00:00Z'", "false")
    with opened(blank_url) as database:
        with database.begin() as tx:
            config = migrate._config()
            config.attributes["connection"] = tx
            command.upgrade(config, "0033")
            customer = book_id("src", "", Customer(external_id="x"))
            tx.exec_driver_sql(
                "INSERT INTO customers (id, merchant_id, source_id, account, external_id, deleted, metadata, name,"
                " version_at, version_rank, version_digest, updated_at)"
                f" VALUES ('{customer}', 'mrc', 'src', '', 'x', {no}, '{{}}', 'old', {at}, 0, '', {at})"
            )
        migrate.upgrade(database)
        for name in ("old", "new"):
            with database.begin() as tx:
                [row] = list_objects(tx, "customer", merchant_id="mrc")
                assert row["name"] == name
                apply(tx, [Entry("mrc", "src", "", Change(Customer(external_id="x", name="new"), NOW))], NOW)


def test_idempotency_keys_keep_what_they_published(blank_url: str) -> None:
    with opened(blank_url) as database:
        at = 1 if database.sqlite else "'1970-01-01T00:00:00Z'"
        with database.begin() as tx:
            config = migrate._config()
            config.attributes["connection"] = tx
            command.upgrade(config, "0008")
            tx.exec_driver_sql(
                "INSERT INTO messages (id, merchant_id, type, object_kind, object_id, body, inbox_id, number,"
                f" occurred_at, created_at) VALUES ('msg', 'mrc', 't', 'publication', 'key', 'x', 'msg', 0, {at}, {at})"
            )
            tx.exec_driver_sql(f"INSERT INTO publications VALUES ('mrc', 'key', 'x', 'msg', {at})")
        migrate.upgrade(database)
        with database.read() as tx:
            assert find_used_keys(tx, [("mrc", "key")])[("mrc", "key")]["message_id"] == "msg"
