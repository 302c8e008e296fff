"""Whether a process and its database fit together: the schema is the one of this code, and the clocks agree.

Without Alembic, which only migrating needs: every process asks this at its start.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from billhook.store.database import Database, Tx, is_store_away

MOST_SKEW_SECONDS: Final = 1.0
"""Leases and retries are minutes and seconds: more than this is worth a word."""


def misfit(database: Database) -> str | None:
    """Why this code cannot work with the schema, and what to do; None where it can."""
    known = known_revisions()
    at = revision(database)
    if at is None:
        return "The database has no schema yet: run `billhook migrate`."
    if at not in known:
        return newer(at)
    if at != known[-1]:
        return f"The database is at schema {at}, and this billhook works with {known[-1]}: run `billhook migrate`."
    return None


def known_revisions() -> list[str]:
    """Those of this code, the one it works with last."""
    names = sorted(file.name[:4] for file in (Path(__file__).parent / "migrations" / "versions").iterdir())
    return [name for name in names if name.isdecimal()]


def newer(at: str | None) -> str:
    return (
        f"The database is at schema {at}, which this billhook does not know: it was made by a newer one."
        " Start that version, or use another database."
    )


def revision(database: Database) -> str | None:
    """The schema's revision; None where there is none yet."""
    try:
        with database.read() as tx:
            return revision_in(tx)
    except DBAPIError as error:
        if is_store_away(error):
            raise
        return None


def revision_in(tx: Tx) -> str | None:
    return tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def clock_skew(database: Database, clock: Callable[[], datetime]) -> float:
    """By how many seconds the database's clock is ahead of ours. SQLite has ours."""
    with database.read() as tx:
        return skew_in(tx, clock)


def skew_in(tx: Tx, clock: Callable[[], datetime]) -> float:
    """The same, within a transaction."""
    if tx.dialect.name == "sqlite":
        return 0.0
    before = clock()
    theirs: datetime = tx.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    after = clock()
    if before <= theirs <= after:
        return 0.0
    return (theirs - after if theirs > after else theirs - before).total_seconds()


def skew_said(skew: float) -> str:
    return f"the database's clock is {abs(skew):.1f} seconds {'ahead of' if skew > 0 else 'behind'} this machine's"
