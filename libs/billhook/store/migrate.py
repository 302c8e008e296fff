"""The schema: brought up to date in one transaction, by whichever process comes first."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from billhook.errors import SettingsError
from billhook.store.database import Database, Tx

_LOCK: Final = 0x62696C6C686F6F6B
"""The advisory lock of everyone who migrates ("billhook" in ASCII). On SQLite the transaction itself is the lock."""


def upgrade(database: Database) -> None:
    """Create the schema, or bring it up to date. Processes that start together wait for the first one.

    Raises `SettingsError` when the database was made by a newer billhook than this one.
    """
    patient = Database(database.url.render_as_string(hide_password=False), answer_seconds=None)
    try:
        _upgrade(patient)
    finally:
        patient.close()


def _upgrade(database: Database) -> None:
    with database.begin() as tx:
        if not database.sqlite:
            tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config = _config()
        config.attributes["connection"] = tx
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SettingsError(
                f"The database is at schema {_revision(tx)}, which this billhook does not know:"
                " it was made by a newer one. Start that version, or use another database."
            ) from error


def pending(database: Database) -> bool:
    """Whether the schema is another than the one this code is written for."""
    return current(database) != ScriptDirectory.from_config(_config()).get_current_head()


def current(database: Database) -> str | None:
    """The schema's revision; None where there is none yet."""
    with database.read() as tx:
        return _revision(tx)


def _revision(tx: Tx) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "billhook.store:migrations")
    return config
