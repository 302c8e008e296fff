"""The invoicer: how fast it turns documents that are due into stored PDFs, whether it grows with them, and where the
time of one goes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from statistics import median

import msgspec
import psutil
import sqlalchemy as sa
from prometheus_client import Counter

from bench.memory import MOST_GROWTH, WARM_SHARE, memory_of
from bench.product import DURABILITY, Product, databases, installed
from bench.results import Aim, Figure
from bench.scale import Scale
from bench.waiting import wait_until
from billhook.documents.page import document_html
from billhook.documents.typst import RenderRequest, work_of
from billhook.documents.typst_process import DOCUMENT, LOOK, MAIN
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import AT_ONCE as ENGINES
from billhook.documents.wkhtmltopdf import FIXED_DATE, OPTIONS, find_wkhtmltopdf, fonts_conf, is_whole
from billhook.queue.steps import Steps
from billhook.rules.document import Snapshot
from billhook.rules.invoicing_settings import Engine, InvoicingSettings
from billhook.store.documents import NewDocument, add_documents, documents
from billhook.store.merchants import set_invoicing
from billhook.store.statements import Statement, is_
from billhook.store.work import DUE
from billhook_testing import samples
from services.invoicer.rendering import Rendering
from services.invoicer.stages import STAGES

LINES = (8, 200)
PATIENCE_SECONDS = 900.0
WARM_UP = 40
LONG_SHARE = 6
"""A document of 200 lines takes about six times as long as one of 8."""
AT_LEAST_OF_FLOOR = 0.85
AT_LEAST_A_SECOND = 120.0


Floor = Callable[[Iterator[int], int, int], float]


def measure(database: str, scale: Scale) -> Iterator[Figure]:
    if find_wkhtmltopdf() is None:
        raise RuntimeError("wkhtmltopdf is not installed: apt-get install wkhtmltopdf")
    numbers = count(1)
    with databases(database) as made:
        with installed(made.new()) as product:
            for lines in LINES:
                yield from _stages(product, numbers, lines, database, scale)
        with installed(made.new()) as product:
            product.run(("invoicer", "relay"))
            render(product, numbers, WARM_UP, LINES[0])
            yield from _growth(product, numbers, database, scale)
            floors: dict[Engine, Floor] = {"typst": typst_alone, "wkhtmltopdf": wkhtmltopdf_alone}
            for engine, floor in floors.items():
                with product.env.database.begin() as tx:
                    set_invoicing(tx, product.merchant_id, InvoicingSettings(engine=engine))
                render(product, numbers, WARM_UP, LINES[0])
                for lines in LINES:
                    yield from _compare(product, numbers, lines, engine, floor, database, scale)


def _number(lines: int, scale: Scale) -> int:
    return scale.documents if lines == LINES[0] else max(1, scale.documents // LONG_SHARE)


def _compare(
    product: Product,
    numbers: Iterator[int],
    lines: int,
    engine: Engine,
    floor: Floor,
    database: str,
    scale: Scale,
) -> Iterator[Figure]:
    number = _number(lines, scale)
    floors, products = [], []
    for _ in range(scale.document_rounds):
        floors.append(floor(numbers, number, lines))
        products.append(render(product, numbers, number, lines))
    name = f"pdf.{database}.{lines}.{engine}"
    conditions = {
        "work": "documents due in SQL, until the last one is stored and settled, by one invoicer",
        "floor": f"{engine} alone over the same data, which lies there already",
        "engines": f"{ENGINES} processes in both",
        "lines": lines,
        "documents": number,
        "rounds": f"{scale.document_rounds}, floor and product by turns; medians",
        "database": DURABILITY[database],
        "objects": "files, synced",
    }
    aim = Aim("ratio", "at least", AT_LEAST_OF_FLOOR)
    yield Figure(f"{name}.throughput", median(products), "documents/s", median(floors), aim, conditions)
    if lines == LINES[0] and engine == "typst":
        aim = Aim("value", "at least", AT_LEAST_A_SECOND)
        yield Figure(f"{name}.per_second", median(products), "documents/s", None, aim, conditions)


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


def _stages(product: Product, numbers: Iterator[int], lines: int, database: str, scale: Scale) -> Iterator[Figure]:
    """What the invoicer does, one batch after the other in this process and with one engine, so that nothing waits for
    a turn. E-invoices, so that there is that stage."""
    env, number = product.env, _number(lines, scale) // 2
    with contextlib.closing(env.engines) as engines:
        rendering = Rendering(engines, env.objects, env.metrics, env.clock, env.settings.public)
        steps = Steps(rendering, env.database, env.bell, env.metrics, env.clock)

        def draw(documents: int) -> tuple[float, float]:
            """Seconds in SQL, and of this process's processor."""
            due = add(product, numbers, documents, lines, e_invoice=True)
            settling, processor = 0.0, time.process_time()
            while due:
                batch, due = due[: rendering.batch], due[rendering.batch :]
                claimed = time.monotonic()
                token, jobs = steps.claim(batch, rendering.batch)
                performed = time.monotonic()
                results = rendering.perform(jobs)
                stored = time.monotonic()
                steps.settle(dict.fromkeys(batch, token), results)
                settling += performed - claimed + time.monotonic() - stored
            return settling, time.process_time() - processor

        draw(rendering.batch)
        before = {stage: _value(env.metrics.document_seconds, stage) for stage in STAGES}
        engine = _engine_processor()
        settling, processor = draw(number)
        conditions = {
            "work": "one batch of 16 e-invoices after the other, in one thread with one engine",
            "lines": lines,
            "documents": number,
            "processor_ms": f"{1000 * processor / number:.1f} of the invoicer, and"
            f" {1000 * (_engine_processor() - engine) / number:.1f} of the engine, a document",
            "database": DURABILITY[database],
        }
        seconds = {stage: _value(env.metrics.document_seconds, stage) - before[stage] for stage in STAGES}
        for stage, spent in {**seconds, "settle": settling}.items():
            name = f"pdf.{database}.{lines}.stage.{stage}"
            yield Figure(name, 1000 * spent / number, "ms a document", None, None, conditions)


def _value(counter: Counter, stage: str) -> float:
    (found,) = (
        sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.labels == {"stage": stage} and sample.name.endswith("_total")
    )
    return found


def _engine_processor() -> float:
    times = [child.cpu_times() for child in psutil.Process().children() if "typst_process" in " ".join(child.cmdline())]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(time.user + time.system for time in times) + ended.ru_utime + ended.ru_stime


def snapshot_of(number: int, lines: int) -> Snapshot:
    return samples.invoice(samples.terms(lines), number=f"INV-{number:08}")


def add(product: Product, numbers: Iterator[int], number: int, lines: int, *, e_invoice: bool = False) -> list[str]:
    """So many documents that are due; returns their ids."""
    wanted = []
    for place in (next(numbers) for _ in range(number)):
        snapshot = snapshot_of(place, lines)
        content = msgspec.json.encode(snapshot)
        new = NewDocument(
            product.merchant_id, f"inv_{place}", snapshot.kind, snapshot.template, content, e_invoice=e_invoice
        )
        wanted.append(new)
    with product.env.database.begin() as tx:
        return add_documents(tx, wanted, product.env.clock())


def render(product: Product, numbers: Iterator[int], number: int, lines: int) -> float:
    """Let so many documents fall due at once, and wait until all are ready; documents a second.

    Raises `RuntimeError` unless each has its file.
    """
    ids = add(product, numbers, number, lines)
    started = time.monotonic()
    product.env.bell.look("documents")
    wait_until(lambda: not _has_due(product), PATIENCE_SECONDS, "the last documents to be settled", share=0.01)
    seconds = time.monotonic() - started
    with product.env.database.read() as tx:
        ready = sa.select(sa.func.count()).where(documents.c.state == "ready", documents.c.object_key.is_not(None))
        made = tx.execute(ready.where(documents.c.id.in_(ids))).scalar_one()
    if made != number:
        raise RuntimeError(f"{made} of {number} documents were made")
    return number / seconds


_DUE = Statement(lambda sqlite: sa.select(documents.c.id).where(is_(documents.c.state, DUE)).limit(1))
"""Written once: to look for the end in some other way cost a hundredth of what is measured."""


def _has_due(product: Product) -> bool:
    with product.env.database.read() as tx:
        return bool(_DUE.rows(tx))


def typst_alone(numbers: Iterator[int], number: int, lines: int) -> float:
    """The same documents by Typst alone; documents a second."""
    with _drawn(number, "typst") as folder:
        shutil.copy(files("billhook.documents").joinpath("templates", MAIN), folder / MAIN)
        for place in range(number):
            snapshot = snapshot_of(next(numbers), lines)
            work = work_of(RenderRequest(shown(snapshot), snapshot.dated or FIXED_DATE), PATIENCE_SECONDS)
            (folder / f"{place}.{DOCUMENT}").write_bytes(work.document)
            (folder / f"{place}.{LOOK}").write_bytes(work.look)
        command = [sys.executable, "-m", "bench.bare_typst", str(folder)]
        processes = [
            subprocess.Popen(
                [*command, str(share), str(ENGINES), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for share in range(min(ENGINES, number))
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        started = time.monotonic()
        for process in processes:
            process.communicate(b"go\n")
        return number / (time.monotonic() - started)


def wkhtmltopdf_alone(numbers: Iterator[int], number: int, lines: int) -> float:
    """The same pages in the same typeface by wkhtmltopdf alone, in its batch mode; documents a second."""
    options = [part for name, value in OPTIONS.items() for part in (f"--{name}", value) if part]
    with _drawn(number, "wkhtmltopdf") as folder:
        for place in range(number):
            page = document_html(shown(snapshot_of(next(numbers), lines)))
            (folder / f"{place}.html").write_text(page, encoding="utf-8")
        (folder / "fonts.conf").write_text(fonts_conf(), encoding="utf-8")
        started = time.monotonic()
        processes = [
            subprocess.Popen(
                ["wkhtmltopdf", "--quiet", *options, "--read-args-from-stdin"],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "FONTCONFIG_FILE": str(folder / "fonts.conf")},
            )
            for _ in range(ENGINES)
        ]
        for share, process in enumerate(processes):
            asked = "".join(f"{place}.html {place}.pdf\n" for place in range(share, number, ENGINES))
            assert process.stdin is not None
            process.stdin.write(asked.encode())
            process.stdin.close()
        for process in processes:
            process.wait()
        return number / (time.monotonic() - started)


@contextlib.contextmanager
def _drawn(number: int, engine: str) -> Iterator[Path]:
    """A folder for a floor. Raises RuntimeError unless all its documents are there in the end."""
    with tempfile.TemporaryDirectory(prefix="billhook-bench-") as directory:
        folder = Path(directory)
        yield folder
        for place in range(number):
            if not is_whole((folder / f"{place}.pdf").read_bytes()):
                raise RuntimeError(f"{engine} left pages undrawn")
