"""The schema: brought up to date in one transaction, by whichever process comes first."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from billhook.errors import SettingsError
from billhook.store.database import Database, Tx, is_store_away
from billhook.store.fitness import newer

_LOCK: Final = 0x62696C6C686F6F6B
"""The advisory lock of everyone who migrates ("billhook" in ASCII). On SQLite the transaction itself is the lock."""


def upgrade(database: Database) -> None:
    """Create the schema, or bring it up to date. Processes that start together wait for the first one.

    Raises `SettingsError` when it was made by a newer billhook than this one, is away, or cannot hold texts.
    """
    patient = Database(database.url.render_as_string(hide_password=False), answer_seconds=None)
    try:
        _upgrade(patient)
    except (DBAPIError, OSError) as error:
        if isinstance(error, DBAPIError) and not is_store_away(error):
            raise
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise SettingsError(
            f"The database {database.url.render_as_string()} cannot be worked with now, and was not changed: {reason}"
        ) from None
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
            raise SettingsError(newer(_revision(tx))) from error


def _revision(tx: Tx) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "billhook.store:migrations")
    return config
