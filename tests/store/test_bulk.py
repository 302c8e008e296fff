"""Many rows and values at once, the same on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from store.databases import NOW

from billhook.store.book import TABLES
from billhook.store.bulk import among, insert_many
from billhook.store.database import Database, is_store_away
from billhook.store.deliveries import delivery_attempts

HOSTILE = "tab\t, back\\slash, \\N, new\nline, {brace} and 'quote' é 💶"


def attempt(number: int, **fields: object) -> dict[str, object]:
    return {
        "id": f"att_{number}",
        "merchant_id": "mrc_a",
        "delivery_id": "dlv_1",
        "number": number,
        "started_at": NOW,
        "duration_ms": 3,
        "outcome": "2xx",
        "status_code": None,
        "error": HOSTILE,
        "response": b"\x00\xff\\x41",
        "response_headers": [["Name", HOSTILE]],
        "url": HOSTILE,
        "request_headers": None,
        **fields,
    }


def test_what_is_inserted_is_what_is_read(database: Database) -> None:
    rows = [attempt(1), attempt(2, error=None, status_code=200, response=b"", response_headers=[])]
    with database.begin() as tx:
        insert_many(tx, delivery_attempts, rows)
        insert_many(tx, delivery_attempts, [])
        found = tx.execute(sa.select(delivery_attempts).order_by(delivery_attempts.c.id)).mappings().all()
    assert [dict(row) for row in found] == rows


def test_among_is_true_of_what_is_named(database: Database) -> None:
    with database.begin() as tx:
        insert_many(tx, delivery_attempts, [attempt(number) for number in range(5)])

        def found(*ids: str) -> list[str]:
            query = sa.select(delivery_attempts.c.id).where(among(tx, delivery_attempts.c.id, ids))
            return sorted(tx.execute(query).scalars())

        assert found("att_3", "att_1", "att_9", HOSTILE) == ["att_1", "att_3"]
        assert found() == []


def test_a_row_that_is_there_already_is_refused_like_any_other_insert_of_it(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as refused, database.begin() as tx:
        insert_many(tx, delivery_attempts, [attempt(1), attempt(1)])
    assert not is_store_away(refused.value)
    with database.read() as tx:
        assert tx.execute(sa.select(delivery_attempts)).all() == []


def test_a_database_that_goes_away_is_known_as_that(postgres_database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError) as gone:
        _insert_while_the_server_hangs_up(postgres_database)
    assert is_store_away(gone.value)


def _insert_while_the_server_hangs_up(database: Database) -> None:
    with database.begin() as tx:
        backend = tx.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with database.begin() as other:
            other.execute(sa.text(f"SELECT pg_terminate_backend({backend})"))
        insert_many(tx, delivery_attempts, [attempt(1)])


def test_json_of_a_type_of_our_own_is_inserted_as_json(database: Database) -> None:
    products = TABLES["product"]
    known = {"external_id": "prod_1", "name": "Tea", "metadata": {"a": HOSTILE}, "version_at": NOW, "updated_at": NOW}
    rest = {
        name: {"deleted": False, "active": True, "livemode": True, "version_rank": 0}.get(name, "")
        for name, column in products.c.items()
        if not column.nullable and name not in known
    }
    with database.begin() as tx:
        insert_many(tx, products, [{**rest, **known}])
        assert tx.execute(sa.select(products.c.metadata)).scalar_one() == {"a": HOSTILE}
