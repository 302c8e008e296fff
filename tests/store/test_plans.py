"""What is asked all the time stays fast however much history there is: no hot statement walks through a big table.

On tables of some thousands of rows with statistics, both databases choose as they would with millions: what they would
find by walking through all of a table here they would walk through there. But where PostgreSQL is to look up a hundred
rows, walking through thousands costs as much, and it is a matter of luck which it does: so pages are dear to it here.
`make plans` asks the same of a million, at its own prices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from billhook.store.database import Database
from billhook.store.dead_letters import list_dead
from tests.plans.history import fill
from tests.plans.hot import HOT, ask, claims_of_plain_deliveries, heard, plan, plan_for_all, walks, walks_of_claims

ROWS = 6_000
SORTED = r"Sort Key: (\w+\.)?due_at|FOR ORDER BY"


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
    found["a claim of plain deliveries"] = walks_of_claims(history)
    assert {what: lines for what, lines in found.items() if lines} == {}


def test_a_claim_takes_the_longest_due_as_the_index_has_them(history: Database) -> None:
    """And sorts no backlog for it, also where a plan is made for all lists at once: it is in use from the sixth claim
    of a connection on."""
    claim, parameters = next(one for one in claims_of_plain_deliveries(history) if "due_at <=" in one[0])
    # Everything is due, for one endpoint, and at times that say nothing of where the rows are.
    some_time = "due_at - (random() % 1000000)" if history.sqlite else "due_at - random() * interval '1 day'"
    with history.begin() as tx:
        tx.exec_driver_sql(
            f"UPDATE deliveries SET state = 'due', lane = 'fresh', endpoint_id = 'ep_1', due_at = {some_time}"
        )
        tx.exec_driver_sql("ANALYZE")
        assert [line for line in plan_for_all(tx, claim, parameters) if re.search(SORTED, line)] == []
        tx.rollback()


def test_only_a_statement_of_its_own_is_planned_once_for_all_parameters(history: Database) -> None:
    """What SQLAlchemy puts together has the words of partial indexes among its parameters: planned without them it
    walks through a million rows."""
    if history.sqlite:
        return
    with history.begin() as tx, history.statement() as run:
        modes = [tx.exec_driver_sql("SHOW plan_cache_mode").scalar_one(), run("SHOW plan_cache_mode", ()).fetchall()]
        tx.rollback()
    assert modes == ["auto", [("force_generic_plan",)]]


def test_open_letters_are_read_past_those_that_were_resolved(history: Database) -> None:
    with history.begin() as tx:
        for merchant, index in ((None, "ix_dead_letters_open"), ("mrc_1", "ix_dead_letters_open_of_merchant")):
            with heard(history) as statements:
                list_dead(tx, merchant_id=merchant, limit=50)
            [(statement, parameters)] = statements
            assert re.search(rf"\b{index}\b", "\n".join(plan(tx, statement, parameters)))
        tx.rollback()


def test_a_walk_is_seen(history: Database) -> None:
    with history.begin() as tx:
        assert walks(tx, "SELECT * FROM deliveries WHERE attempts = 7", {} if tx.dialect.name == "postgresql" else ())
        tx.rollback()
