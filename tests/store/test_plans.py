"""What is asked all the time stays fast however much history there is: no hot statement walks through a big table.

On tables of some thousands of rows with statistics, both databases choose as they would with millions: what they would
find by walking through all of a table here they would walk through there. But where PostgreSQL is to look up a hundred
rows, walking through thousands costs as much, and it is a matter of luck which it does: so pages are dear to it here.
`make plans` asks the same of a million, at its own prices.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from billhook.store.database import Database
from tests.plans.history import fill
from tests.plans.hot import HOT, ask, claim_of_plain_deliveries, walks

ROWS = 6_000


@pytest.fixture(scope="module")
def history(migrated: Database) -> Iterator[Database]:
    """Whoever has billed for a while."""
    with migrated.begin() as tx:
        fill(tx, ROWS)
        tx.execute(sa.text("ANALYZE"))
    if migrated.sqlite:
        yield migrated
        return
    sa.event.listen(migrated.engine, "begin", make_pages_dear)
    yield migrated
    sa.event.remove(migrated.engine, "begin", make_pages_dear)


def make_pages_dear(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SET LOCAL seq_page_cost = 4")


def test_no_hot_statement_walks_through_a_big_table(history: Database) -> None:
    found = {what: ask(history, question).walks for what, question in HOT.items()}
    found["a claim of plain deliveries"] = claim_of_plain_deliveries(history)
    assert {what: lines for what, lines in found.items() if lines} == {}


def test_a_walk_is_seen(history: Database) -> None:
    with history.begin() as tx:
        assert walks(tx, "SELECT * FROM deliveries WHERE attempts = 7", {} if tx.dialect.name == "postgresql" else ())
        tx.rollback()
