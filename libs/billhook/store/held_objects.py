"""Objects as the book holds them, for who compares them with what the provider has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from billhook.rules.book.objects import BookObject
from billhook.store.book import TABLES, value_of
from billhook.store.bulk import among
from billhook.store.database import Tx


@dataclass(frozen=True)
class Held:
    """An object as the book holds it, and in which version."""

    value: BookObject
    version: str


def held_objects(
    tx: Tx, source_id: str, kind: str, external_ids: Collection[str], *, account: str = ""
) -> dict[str, Held]:
    """The book's objects of a source, or of an account that is connected to it, by the provider's id."""
    c = TABLES[kind].c
    query = sa.select(TABLES[kind]).where(
        c.source_id == source_id, c.account == account, among(tx, c.external_id, external_ids)
    )
    return {row["external_id"]: _held(kind, row) for row in tx.execute(query).mappings()}


def made_between(
    tx: Tx, source_id: str, kind: str, since: datetime, until: datetime, *, limit: int, account: str = ""
) -> dict[str, Held]:
    """The same of what was made from `since` to before `until` and is not deleted."""
    c = TABLES[kind].c
    query = sa.select(TABLES[kind]).where(
        c.source_id == source_id, c.account == account, c.created >= since, c.created < until, c.deleted.is_(sa.false())
    )
    return {row["external_id"]: _held(kind, row) for row in tx.execute(query.limit(limit)).mappings()}


def _held(kind: str, row: sa.RowMapping) -> Held:
    version = msgspec.json.encode([row["version_at"], row["version_rank"], row["version_digest"], row["updated_at"]])
    return Held(value_of(kind, row), version.decode())
