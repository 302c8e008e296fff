"""`make plans`: every hot question at a million rows of each big table, on both databases: its time, and no walk."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

import sqlalchemy as sa

from billhook.store import migrate
from billhook.store.database import Database
from billhook_testing.servers import postgres_server
from tests.plans.history import fill
from tests.plans.hot import HOT, ask, walks_of_claims

SLOW_SECONDS = 0.1
"""What a batch of a thousand deletions takes at the most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.plans", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--databases", default="sqlite,postgresql")
    options = parser.parse_args()
    problems: list[str] = []
    for name in options.databases.split(","):
        with filled(name, options.rows) as database:
            problems += [f"{name}: {problem}" for problem in judged(database)]
    for problem in problems:
        print(f"PROBLEM  {problem}")
    return 1 if problems else 0


@contextmanager
def filled(name: str, rows: int) -> Iterator[Database]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="billhook-plans-")))
        if name == "postgresql":
            url = stack.enter_context(postgres_server(fast=True)).create_database()
        else:
            url = f"sqlite:///{directory}/billhook.db"
        database = stack.enter_context(closing(Database(url, answer_seconds=None)))
        migrate.upgrade(database)
        began = time.monotonic()
        with database.begin() as tx:
            fill(tx, rows)
        with database.begin() as tx:
            tx.execute(sa.text("ANALYZE"))
        print(f"{name}: {rows} rows of each table in {time.monotonic() - began:.0f} s", flush=True)
        yield database


def judged(database: Database) -> Iterator[str]:
    """Print what each question takes, and say what is wrong."""
    for what, question in HOT.items():
        answers = [ask(database, question) for _ in range(3)]
        seconds = median(answer.seconds for answer in answers)
        print(f"  {1000 * seconds:8.2f} ms  {what}")
        if answers[0].walks:
            yield f"{what}: {'; '.join(answers[0].walks)}"
        if seconds > SLOW_SECONDS:
            yield f"{what} takes {1000 * seconds:.0f} ms"
    yield from (f"a claim of plain deliveries: {line}" for line in walks_of_claims(database))


if __name__ == "__main__":
    sys.exit(main())
