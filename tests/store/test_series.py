"""Numbers of a series are exactly 1 to n, whatever races, fails or dies."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from store.own import own_invoice

from billhook.store.database import Database
from billhook.store.own_invoices import add_own_invoice, list_own_invoices
from billhook.store.series import next_number

TAKE_AND_WAIT = """
import sys
from billhook.store.database import Database
from billhook.store.series import next_number
with Database(sys.argv[1]).begin() as tx:
    print(next_number(tx, "mrc_a", "INV-"), flush=True)
    sys.stdin.readline()
"""


class RolledBack(Exception):
    pass


def take(database: Database, series: str = "INV-", merchant: str = "mrc_a") -> int:
    with database.begin() as tx:
        return next_number(tx, merchant, series)


def test_a_series_counts_from_one_and_each_merchant_has_its_own(database: Database) -> None:
    assert [take(database) for _ in range(3)] == [1, 2, 3]
    assert take(database, merchant="mrc_b") == 1
    assert take(database, "INV-2027-") == 1
    assert take(database) == 4


def test_what_is_rolled_back_gives_its_number_back(database: Database) -> None:
    take(database)
    for _ in range(3):
        try:
            with database.begin() as tx:
                assert next_number(tx, "mrc_a", "INV-") == 2
                raise RolledBack
        except RolledBack:
            pass
    assert take(database) == 2


def test_numbers_have_no_gap_when_many_take_them_and_some_roll_back(database: Database) -> None:
    """Each number goes to a row in the same transaction, as at a finalization."""
    start = threading.Barrier(8)

    def finalize_many(seed: int) -> int:
        chance, kept = random.Random(seed), 0
        start.wait()
        for _ in range(20):
            try:
                with database.begin() as tx:
                    number = next_number(tx, "mrc_a", "INV-")
                    add_own_invoice(tx, own_invoice(number=f"INV-{number}", series="INV-", sequence=number))
                    if chance.random() < 0.3:
                        raise RolledBack
                kept += 1
            except RolledBack:
                pass
        return kept

    with ThreadPoolExecutor(8) as threads:
        kept = sum(threads.map(finalize_many, range(8)))
    with database.read() as tx:
        numbers = [row.sequence for row in list_own_invoices(tx, merchant_id="mrc_a", limit=1000)]
    assert 0 < kept < 160
    assert sorted(number for number in numbers if number is not None) == list(range(1, kept + 1))


def test_a_process_killed_before_its_commit_leaves_no_gap(database: Database) -> None:
    take(database)
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", TAKE_AND_WAIT, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        process.kill()
    assert take(database) == 2
