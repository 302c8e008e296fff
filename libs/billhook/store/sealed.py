"""Every secret that is stored sealed: which key each needs, and sealing them anew with the current one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from billhook.store.database import Database, Tx
from billhook.store.endpoints import endpoints
from billhook.store.sources import sources
from billhook.store.vault import Vault

COLUMNS: Final = {
    sources: ("secret", "previous_secret", "api_key"),
    endpoints: ("secret", "headers", "previous_secrets"),
}
"""Bytes, or a list of [sealed text, until]."""

BATCH: Final = 200
"""Rows that are locked together, for some milliseconds."""


def keys_needed(database: Database, vault: Vault, table: sa.Table) -> Counter[int | None]:
    """How many secrets of a table each key opens, by its place among the keys; None are those that none opens."""
    needed: Counter[int | None] = Counter()
    after = ""
    while True:
        with database.read() as tx:
            rows = _batch(tx, table, after, lock=False)
        if not rows:
            return needed
        after = rows[-1]["id"]
        needed.update(vault.place_of_key(sealed) for row in rows for sealed in _sealed(table, row))


def reseal(database: Database, vault: Vault, table: sa.Table) -> Iterator[tuple[int, int]]:
    """Seal a table's secrets with the current key: after each batch, which is committed, how many rows were looked at
    in it, and how many changed. What was sealed with it before is passed over, so that whoever is interrupted begins
    again. Raises `SettingsError` where no key opens one."""
    after = ""
    while True:
        with database.begin() as tx:
            rows = _batch(tx, table, after, lock=True)
            changed = 0
            for row in rows:
                new = {name: _anew(vault, row[name]) for name in COLUMNS[table]}
                if different := {name: value for name, value in new.items() if value != row[name]}:
                    tx.execute(sa.update(table).where(table.c.id == row["id"]).values(**different))
                    changed += 1
        if not rows:
            return
        after = rows[-1]["id"]
        yield len(rows), changed


def count(tx: Tx, table: sa.Table) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def _batch(tx: Tx, table: sa.Table, after: str, *, lock: bool) -> list[dict[str, Any]]:
    wanted = [table.c[name] for name in COLUMNS[table]]
    query = sa.select(table.c.id, *wanted).where(table.c.id > after).order_by(table.c.id).limit(BATCH)
    rows = tx.execute(query.with_for_update() if lock else query).mappings()
    return [{name: bytes(v) if isinstance(v, memoryview) else v for name, v in row.items()} for row in rows]


def _sealed(table: sa.Table, row: dict[str, Any]) -> Iterator[bytes]:
    for name in COLUMNS[table]:
        match row[name]:
            case bytes() as sealed:
                yield sealed
            case list() as several:
                yield from (sealed.encode() for sealed, _ in several)


def _anew(vault: Vault, value: Any) -> Any:
    match value:
        case bytes():
            return value if vault.place_of_key(value) == 0 else vault.seal(vault.open(value))
        case list():
            return [[_anew(vault, sealed.encode()).decode(), until] for sealed, until in value]
    return value
