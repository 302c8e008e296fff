"""The invoicer: how fast it turns documents that are due into stored PDFs, and whether it grows with them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil
import sqlalchemy as sa

from bench.memory import MOST_GROWTH, WARM_SHARE, memory_of
from bench.product import DURABILITY, Product, databases, installed, start
from bench.results import Aim, Figure
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.documents.page import document_html
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import OPTIONS, find_wkhtmltopdf, is_whole
from billhook.rules.document import Snapshot
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.runtime.health import is_ready
from billhook.runtime.valkey import free_port
from billhook.store.documents import NewDocument, add_documents, documents
from billhook.store.merchants import set_invoicing
from billhook.store.work import DUE
from billhook_testing import samples
from services.invoicer.service import AT_ONCE

LINES = (8, 200)
PATIENCE_SECONDS = 900.0
WARM_UP = 40
LONG_SHARE = 6
"""A document of 200 lines takes about six times as long as one of 8."""


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    if find_wkhtmltopdf() is None:
        raise RuntimeError("wkhtmltopdf is not installed: apt-get install wkhtmltopdf")
    numbers = count(1)
    with databases(database) as made, installed(made.new()) as product:
        product.run(("invoicer", "relay"))
        render(product, numbers, WARM_UP, LINES[0])
        yield from _growth(product, numbers, database, scale)
        for lines in LINES:
            yield from _compare(product, numbers, lines, 1, database, scale)
        yield _typst(product, numbers, database, scale)
        with _another_invoicer(product):
            render(product, numbers, WARM_UP, LINES[0])
            for lines in LINES:
                yield from _compare(product, numbers, lines, 2, database, scale)


def _compare(
    product: Product, numbers: Iterator[int], lines: int, invoicers: int, database: str, scale: Scale
) -> Iterator[Figure]:
    number = scale.documents if lines == LINES[0] else max(1, scale.documents // LONG_SHARE)
    engines = invoicers * AT_ONCE
    floors, products = [], []
    for _ in range(scale.document_rounds):
        floors.append(draw_barely(numbers, number, lines, engines))
        products.append(render(product, numbers, number, lines))
    name = f"pdf.{database}.{lines}.{invoicers}"
    conditions = {
        "work": "documents due in SQL, until the last one is stored and settled",
        "floor": "wkhtmltopdf in batch mode over the same HTML, which lies there already",
        "engines": f"{engines} processes in both",
        "invoicers": invoicers,
        "lines": lines,
        "documents": number,
        "rounds": f"{scale.document_rounds}, floor and product by turns; medians",
        "database": DURABILITY[database],
        "objects": "files, with fsync",
    }
    yield Figure(
        f"{name}.throughput", median(products), "documents/s", median(floors), Aim("ratio", "at least", 0.8), conditions
    )
    if lines == LINES[0]:
        aim = Aim("value", "at least", 50)
        yield Figure(f"{name}.per_second", median(products), "documents/s", None, aim, conditions)


def _typst(product: Product, numbers: Iterator[int], database: str, scale: Scale) -> Figure:
    with product.env.database.begin() as tx:
        set_invoicing(tx, product.merchant_id, InvoicingSettings(engine="typst"))
    render(product, numbers, WARM_UP, LINES[0])
    per_second = median(render(product, numbers, scale.documents, LINES[0]) for _ in range(scale.document_rounds))
    with product.env.database.begin() as tx:
        set_invoicing(tx, product.merchant_id, InvoicingSettings())
    conditions: dict[str, Any] = {"work": "the same by Typst", "lines": LINES[0], "documents": scale.documents}
    return Figure(f"pdf.{database}.{LINES[0]}.typst", per_second, "documents/s", None, None, conditions)


def _growth(product: Product, numbers: Iterator[int], database: str, scale: Scale) -> Iterator[Figure]:
    invoicer = product.pids["invoicer"]
    first = int(scale.document_memory * WARM_SHARE)
    render(product, numbers, first, LINES[0])
    warm, warm_engines = memory_of(invoicer), _engines_memory(invoicer)
    render(product, numbers, scale.document_memory - first, LINES[0])
    conditions = {
        "work": f"after {scale.document_memory} documents",
        "floor": f"the same process after {first}",
        "engines_mb": f"{warm_engines:.0f}, then {_engines_memory(invoicer):.0f}, in processes of their own",
    }
    aim = Aim("ratio", "at most", MOST_GROWTH)
    yield Figure(f"pdf.{database}.memory.invoicer", memory_of(invoicer), "MB", warm, aim, conditions)


def _engines_memory(pid: int) -> float:
    total = 0.0
    for child in psutil.Process(pid).children(recursive=True):
        try:
            total += memory_of(child.pid)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
    return total


def snapshot_of(number: int, lines: int) -> Snapshot:
    return samples.invoice(samples.terms(lines), number=f"INV-{number:08}")


def render(product: Product, numbers: Iterator[int], number: int, lines: int) -> float:
    """Let so many documents fall due at once, and wait until all are ready; documents a second.

    Raises `RuntimeError` unless each has its file.
    """
    wanted = []
    for place in (next(numbers) for _ in range(number)):
        snapshot = snapshot_of(place, lines)
        content = msgspec.json.encode(snapshot)
        wanted.append(NewDocument(product.merchant_id, f"inv_{place}", snapshot.kind, snapshot.template, content))
    with product.env.database.begin() as tx:
        ids = add_documents(tx, wanted, product.env.clock())
    started = time.monotonic()
    product.env.bell.look("documents")
    # Each look costs the product some of its processor.
    wait_until(lambda: not _has_due(product), PATIENCE_SECONDS, "the last documents to be settled")
    seconds = time.monotonic() - started
    with product.env.database.read() as tx:
        ready = sa.select(sa.func.count()).where(documents.c.state == "ready", documents.c.object_key.is_not(None))
        made = tx.execute(ready.where(documents.c.id.in_(ids))).scalar_one()
    if made != number:
        raise RuntimeError(f"{made} of {number} documents were made")
    return number / seconds


def _has_due(product: Product) -> bool:
    with product.env.database.read() as tx:
        return tx.execute(sa.select(documents.c.id).where(documents.c.state == DUE).limit(1)).first() is not None


def draw_barely(numbers: Iterator[int], number: int, lines: int, engines: int) -> float:
    """The same pages by wkhtmltopdf alone, in so many processes; documents a second."""
    options = [part for name, value in OPTIONS.items() for part in (f"--{name}", value) if part]
    with tempfile.TemporaryDirectory(prefix="billhook-bench-") as directory:
        place = Path(directory)
        for index in range(number):
            page = document_html(shown(snapshot_of(next(numbers), lines)))
            (place / f"{index}.html").write_text(page, encoding="utf-8")
        started = time.monotonic()
        processes = [
            subprocess.Popen(
                ["wkhtmltopdf", "--quiet", *options, "--read-args-from-stdin"],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=place,
                env={**os.environ, "XDG_RUNTIME_DIR": directory},
            )
            for _ in range(engines)
        ]
        for share, process in enumerate(processes):
            asked = "".join(f"{index}.html {index}.pdf\n" for index in range(share, number, engines))
            assert process.stdin is not None
            process.stdin.write(asked.encode())
            process.stdin.close()
        for process in processes:
            process.wait()
        seconds = time.monotonic() - started
        if not all(is_whole((place / f"{index}.pdf").read_bytes()) for index in range(number)):
            raise RuntimeError("wkhtmltopdf left pages undrawn")
    return number / seconds


@contextmanager
def _another_invoicer(product: Product) -> Iterator[None]:
    settings = product.settings.model_copy(update={"invoicer_port": free_port()})
    process = start(settings, "invoicer")
    try:
        wait_until(lambda: is_ready(product.host, settings.invoicer_port), 60, "a second invoicer to be ready")
        yield
    finally:
        process.terminate()
        process.wait()
