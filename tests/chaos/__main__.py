"""`make chaos`: kills, outages and an account, on SQLite and on PostgreSQL. Exits 1 when anything was lost or
doubled."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from billhook_testing.servers import PostgresServer, postgres_server
from tests.chaos.faults import FAULTS
from tests.chaos.run import Options, Report, run

SHOWN = 20
"""Findings that are printed; the rest is a number."""


def main() -> int:
    arguments = _parse()
    names = list(FAULTS) if arguments.faults == "all" else arguments.faults.split(",")
    if not arguments.debts and "dunner" in names:
        names.remove("dunner")
    options = Options(
        faults=[fault for name in names for fault in FAULTS[name]],
        seconds=arguments.seconds,
        rate=arguments.rate,
        seed=arguments.seed,
        lease_seconds=arguments.lease,
        debts=arguments.debts,
    )
    databases = ("sqlite", "postgresql") if arguments.database == "both" else (arguments.database,)
    directory = Path(tempfile.mkdtemp(prefix="billhook-chaos-"))
    reports = {}
    for database in databases:
        print(f"\n{database}: {options.seconds:g} s at {options.rate:g} events/s, seed {options.seed}", flush=True)
        with _empty_database(database, directory) as (url, server):
            chosen = replace(options, server=server)
            reports[database] = run(url, directory / database, chosen, lambda line: print(line, flush=True))
    for database, report in reports.items():
        _print_report(database, report)
    _print_table(reports)
    ok = all(report.ok for report in reports.values())
    if ok:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"\nFAILED. What was accepted, the services' log and the data are in {directory}")
    return 0 if ok else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=90, help="of traffic and faults, for each database")
    parser.add_argument("--rate", type=float, default=80, help="events a second")
    parser.add_argument("--seed", type=int, default=1, help="of the events, the order of the faults and their times")
    parser.add_argument("--debts", type=int, default=60, help="failed payments that a dunner carries; 0: no dunner")
    parser.add_argument("--faults", default="all", help=f"all, or some of {','.join(FAULTS)}")
    parser.add_argument("--lease", type=float, help="seconds of every lease in this run, instead of the product's own")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults.split(",")) - {"all", *FAULTS}:
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}")
    return arguments


@contextmanager
def _empty_database(database: str, directory: Path) -> Iterator[tuple[str, PostgresServer | None]]:
    if database == "sqlite":
        yield f"sqlite:///{directory / 'sqlite' / 'billhook.db'}", None
        return
    with postgres_server() as server:
        yield server.create_database(), server


def _print_report(database: str, report: Report) -> None:
    print(f"\n{database}: from the end of each fault, in seconds (leases of at most {report.longest_lease:g} s)\n")
    print(f"  {'fault':<32} {'first new event through':>24} {'backlog done':>14}")
    for recovery in report.recoveries:
        print(f"  {recovery.name:<32} {recovery.back:>24.2f} {recovery.drained:>14.2f}")
    for kind, findings in (
        ("LOST", report.account.lost),
        ("DOUBLED", report.account.doubled),
        ("UNFINISHED", report.unfinished),
    ):
        for finding in findings[:SHOWN]:
            print(f"  {kind:<10} {finding}")
        if len(findings) > SHOWN:
            print(f"  {kind:<10} … and {len(findings) - SHOWN} more")


def _print_table(reports: dict[str, Report]) -> None:
    rows: list[tuple[str, list[str]]] = []
    values = list(reports.values())

    def row(name: str, cells: Sequence[object]) -> None:
        rows.append((name, [str(cell) for cell in cells]))

    row("events begun", [r.begun for r in values])
    row("accepted", [r.account.accepted for r in values])
    row("sent again although accepted", [r.sent_again for r in values])
    row("tries without a 2xx", [r.failed_tries for r in values])
    row("processes started again", [r.restarts for r in values])
    row("webhooks arrived", [r.account.arrivals for r in values])
    row("repeated on the wire", [r.account.repeated for r in values])
    row("failed payments collected", [r.collected for r in values])
    row("lost", [len(r.account.lost) for r in values])
    row("effects doubled", [len(r.account.doubled) for r in values])
    row("back, p50 / max s", [_spread([x.back for x in r.recoveries]) for r in values])
    row("backlog done, p50 / max s", [_spread([x.drained for x in r.recoveries]) for r in values])
    row("drain after the traffic, s", [f"{r.drain_seconds:.1f}" for r in values])
    print(f"\n  {'':<30}" + "".join(f"{name:>18}" for name in reports))
    for name, cells in rows:
        print(f"  {name:<30}" + "".join(f"{cell:>18}" for cell in cells))


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} / {max(seconds):.2f}" if seconds else "-"


if __name__ == "__main__":
    sys.exit(main())
