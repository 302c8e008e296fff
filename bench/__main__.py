"""`python -m bench`: measure, print a table, and write the record."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from bench import (
    console,
    delivery,
    dunning,
    ingress,
    isolation,
    memory,
    observability,
    pdf,
    pipeline,
    publish,
    reconcile,
    replay,
    rest,
    results,
    standing,
    thundering,
)
from bench.results import Figure
from bench.scale import DEFAULT, FULL, QUICK
from billhook_testing.postgres_installation import NoServer

MEASURES = {
    "ingress": ingress.measure,
    "pipeline": pipeline.measure,
    "delivery": delivery.measure,
    "isolation": isolation.measure,
    "thundering": thundering.measure,
    "publish": publish.measure,
    "pdf": pdf.measure,
    "reconcile": reconcile.measure,
    "replay": replay.measure,
    "dunning": dunning.measure,
    "standing": standing.measure,
    "memory": memory.measure,
    "observability": observability.measure,
    "console": console.measure,
    "rest": rest.measure,
}
DATABASES = {
    "ingress": ("sqlite", "postgresql"),
    "pipeline": ("sqlite", "postgresql"),
    "delivery": ("sqlite", "postgresql"),
    "isolation": ("postgresql",),
    "thundering": ("postgresql",),
    "publish": ("postgresql",),
    "pdf": ("postgresql",),
    "reconcile": ("postgresql",),
    "replay": ("postgresql",),
    "dunning": ("postgresql",),
    "standing": ("postgresql",),
    "console": ("postgresql",),
    "memory": ("sqlite", "postgresql"),
    "observability": ("sqlite", "postgresql"),
    "rest": ("sqlite",),
}
RECORD = Path(__file__).with_name("results.json")


def main() -> int:
    options = _options()
    scale = QUICK if options.quick else FULL if options.full else DEFAULT
    machine = results.machine()
    figures: list[Figure] = []
    for name in options.only:
        for database in DATABASES[name]:
            if database not in options.databases:
                continue
            started = time.monotonic()
            print(f"{name} on {database} …", end=" ", flush=True)
            try:
                figures += MEASURES[name](database, scale)
            except NoServer as error:
                print(f"left out: {error}")
                continue
            print(f"{time.monotonic() - started:.0f} s", flush=True)
    figures = [replace(figure, conditions={**figure.conditions, **machine}) for figure in figures]
    print(f"\n{results.table(figures)}")
    if options.output:
        results.write(figures, options.output)
        print(f"\nWritten to {options.output}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure billhook beside its floors.")
    parser.add_argument("--only", type=_list_of(MEASURES), default=list(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--databases", type=_list_of(("sqlite", "postgresql")), default=["sqlite", "postgresql"])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="short rounds: to see that it works, not how fast")
    length.add_argument("--full", action="store_true", help="100,000 events through the pipeline, and long rounds")
    parser.add_argument("--output", type=Path, help="where the record goes (a whole run writes bench/results.json)")
    options = parser.parse_args()
    whole = not options.quick and options.only == list(MEASURES) and len(options.databases) == 2
    if options.output is None and whole:
        options.output = RECORD
    return options


def _list_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
