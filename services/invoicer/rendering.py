"""Rendering: a batch of documents becomes pages, one run of an engine, and files that are written once.

prepare   the merchant's template and wish, beside the snapshot
perform   snapshot → what it says → PDF (with the e-invoice in it) → object store, all of a batch with one wait for it
effects   the file's key, hash and size, and the mails it goes out with, in the transaction that marks it ready

A file is named by all that it is made of, so rendering it twice gives the same file: after a kill between storing and
settling, the next worker finds it there and does not draw it again.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from billhook.actions.document_mails import head, mails_for
from billhook.documents.einvoice.facturx import embed, facturx_xml
from billhook.documents.engines import Engines, RoutedRequest
from billhook.documents.typst import Pdf, Picture, RenderRequest
from billhook.documents.typst_process import REPLACEMENT
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import FIXED_DATE, RendererMissing, RenderError, is_whole
from billhook.errors import TryAgain, Unprocessable
from billhook.metrics import Metrics
from billhook.outlets.objects import ObjectDiffers, Objects, document_key
from billhook.queue.handler import Rings
from billhook.rules.document import Logo, Snapshot
from billhook.rules.engine import Engine
from billhook.rules.retry import MAX_ATTEMPTS, Dead, Defer, Done, Outcome, Retry, after_failure
from billhook.runtime.clock import Clock
from billhook.store.database import Tx, after_commit
from billhook.store.documents import Rendered, documents, read_snapshot, set_files
from billhook.store.mails import add_mails, mails
from billhook.store.merchants import merchants_of
from billhook.store.templates import get_template
from billhook.store.work import Row
from services.invoicer.stages import STAGES, Stages

log = logging.getLogger(__name__)

UNTIL_INSTALLED = timedelta(seconds=15)
"""Where the engine is not installed, documents wait; how often they ask whether it is there by now."""

OWN_TEMPLATE = "tpl_"
MOST_NAMED = 20
"""Letters, in a warning."""


@dataclass(frozen=True, slots=True)
class RenderJob:
    """One claimed document."""

    id: str
    merchant_id: str
    attempts: int
    snapshot: bytes
    e_invoice: bool
    template: str
    wish: Engine
    """The merchant's."""
    own: str | None
    """The source of the merchant's template, where `template` is one."""


@dataclass(frozen=True, slots=True)
class PreparedRender:
    """What is drawn for a job, and what the file is called."""

    job: RenderJob
    snapshot: Snapshot
    xml: bytes | None
    """The e-invoice that goes into the file."""
    routed: RoutedRequest
    engine: str
    key: str


@dataclass(frozen=True, slots=True)
class Made:
    """A file that is being stored."""

    render: PreparedRender
    key: str
    size: int
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What settling writes."""

    file: Rendered
    head: Snapshot
    """What it shows but for its lines, for mails."""


Result = tuple[RenderJob, Outcome, Ready | None]


class Rendering:
    """The handler of the documents."""

    table: sa.Table = documents
    # Engines are kept from batch to batch, so a larger batch gains nothing and leaves the other consumer without work.
    # Even if every document takes its 30 seconds and is killed, a batch takes two engines 4 minutes, and where it waits
    # for another such batch 8: less than the 10 after which it counts as stuck.
    batch = 16
    lease = timedelta(seconds=10)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, engines: Engines, objects: Objects, metrics: Metrics, clock: Clock, public: str) -> None:
        """`public`: where customers reach the desk."""
        self._engines = engines
        self._objects = objects
        self._metrics = metrics
        for outcome in ("ready", "failed"):
            metrics.documents.labels(outcome)  # from 0 on, or the first would not show as an increase
        self._seconds = {stage: metrics.document_seconds.labels(stage) for stage in STAGES}
        self._clock = clock
        self._public = public

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[RenderJob]:
        merchants = merchants_of(tx, {row["merchant_id"] for row in rows})
        chosen = {(row["template"], row["merchant_id"]) for row in rows if row["template"].startswith(OWN_TEMPLATE)}
        sources = {
            template_id: template.source
            for template_id, merchant_id in chosen
            if (template := get_template(tx, template_id, merchant_id=merchant_id)) is not None
        }
        return [
            RenderJob(
                row["id"],
                row["merchant_id"],
                row["attempts"],
                row["snapshot"],
                row["e_invoice"],
                row["template"],
                merchants[row["merchant_id"]].invoicing.engine,
                sources.get(row["template"]),
            )
            for row in rows
        ]

    def perform(self, jobs: Sequence[RenderJob]) -> Sequence[Result]:
        left = {job.id: job for job in jobs}
        results: list[Result] = []
        made: list[Made] = []
        stages = Stages(self._seconds)

        def ended(result: Result) -> None:
            results.append(result)
            del left[result[0].id]

        def files() -> Iterator[tuple[str, bytes]]:
            for one, file in self._made(jobs, ended, stages):
                made.append(one)
                yield one.key, file

        try:
            answers = self._objects.put_all(files())
        except TryAgain as error:
            # The object store is away. Each try takes a minute to find that out: one is enough for a batch.
            return [*results, *(self._failed(job, error) for job in left.values())]
        finally:
            stages.end()
        for one, answer in zip(made, answers, strict=True):
            try:
                ended(self._ready(one, answer))
            except Exception as error:
                ended(self._failed(one.render.job, error))
        return results

    def _made(
        self, jobs: Sequence[RenderJob], ended: Callable[[Result], None], stages: Stages
    ) -> Iterator[tuple[Made, bytes]]:
        """The files of a batch, each as soon as there is one. What comes to no file has `ended`."""
        prepared: list[PreparedRender] = []
        logos: dict[str, Picture] = {}
        for job in jobs:
            try:
                with stages.within("data"):
                    render = self._prepared(job, logos, stages)
                # An earlier attempt may have stored the file and died before it could settle.
                file = self._stored(render.key) if job.attempts > 1 else None
            except Exception as error:
                ended(self._failed(job, error))
                continue
            if file is None:
                prepared.append(render)
            else:
                yield Made(render, render.key, len(file)), file
        drawn = self._engines.draw([render.routed for render in prepared])
        while True:
            with stages.within("draw"):
                place, pdf = next(drawn, (None, b""))
            if place is None:
                return
            job = prepared[place].job
            try:
                if isinstance(pdf, RendererMissing):
                    ended((job, Defer(self._clock() + UNTIL_INSTALLED, pdf.reason), None))
                    continue
                one = self._finished(prepared[place], pdf, stages)
            except Exception as error:
                ended(self._failed(job, error))
            else:
                yield one

    def _prepared(self, job: RenderJob, logos: dict[str, Picture], stages: Stages) -> PreparedRender:
        snapshot = read_snapshot(job.snapshot)
        if job.template.startswith(OWN_TEMPLATE) and job.own is None:
            raise Unprocessable(f"the template {job.template} is none of the merchant's")
        with stages.within("e_invoice"):
            xml = _e_invoice(snapshot) if job.e_invoice else None
        request = RenderRequest(
            shown(snapshot), snapshot.dated or FIXED_DATE, self._logo(snapshot, logos), xml is not None
        )
        routed = self._engines.route(request, wish=job.wish, own=job.own)
        engine = self._engines.name_of(routed)
        address = _address(job.snapshot, (job.own or job.template).encode(), engine.encode(), xml or b"")
        return PreparedRender(job, snapshot, xml, routed, engine, document_key(address))

    def _logo(self, snapshot: Snapshot, logos: dict[str, Picture]) -> Picture | None:
        logo: Logo | None = snapshot.seller.logo
        if logo is None:
            return None
        if logo.key not in logos:
            content = self._objects.get(logo.key, logo.sha256)
            logos[logo.key] = Picture(logo.media_type, content, logo.width, logo.height)
        return logos[logo.key]

    def _finished(self, render: PreparedRender, pdf: bytes | RenderError, stages: Stages) -> tuple[Made, bytes]:
        if isinstance(pdf, RenderError):
            if pdf.detail:
                about = {"document_id": render.job.id, "engine": render.engine, "detail": pdf.detail}
                log.warning("document not drawn: %s", pdf.reason, extra=about)
            raise TryAgain(pdf.reason)
        try:
            with stages.within("e_invoice"):
                file = pdf if render.xml is None else embed(pdf, render.xml, render.snapshot)
        except ValueError as error:  # this installation's engine is set to one that draws no PDF/A-3
            raise Unprocessable(str(error)) from error
        warning = _warning(pdf)
        key = render.key
        if warning is not None:
            # Under a name that no retry looks for: it is drawn again then, and the warning known again. And a machine
            # that has the letters stores the whole document under the name that this one left free.
            key = document_key(_address(key.encode(), warning.encode()))
        return Made(render, key, len(file), warning), file

    def _stored(self, key: str) -> bytes | None:
        file = self._objects.find(key)
        return file if file is not None and is_whole(file) else None

    def _ready(self, made: Made, stored: str | ObjectDiffers) -> Result:
        render, size = made.render, made.size
        if isinstance(stored, ObjectDiffers):
            # It was drawn before, with other fonts or another version of a library. The file that is stored stays.
            file = self._stored(made.key)
            if file is None:
                raise stored
            stored, size = hashlib.sha256(file).hexdigest(), len(file)
        rendered = Rendered(render.job.id, made.key, stored, size, render.engine, made.warning)
        return render.job, Done("ready"), Ready(rendered, head(render.snapshot))

    def _failed(self, job: RenderJob, error: Exception) -> Result:
        if not isinstance(error, (TryAgain, Unprocessable)):
            log.error("document failed", extra={"document_id": job.id}, exc_info=error)
        failure = after_failure(error, attempts=job.attempts, now=self._clock(), jitter=random.random())
        return job, failure, None

    def about(self, job: RenderJob, made: Ready | None) -> dict[str, Any]:
        if made is None:
            return {"template": job.template}
        return {"template": job.template, "engine": made.file.engine, "bytes": made.file.size}

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        ready = {job.id: made for job, _, made in results if made is not None}
        failed = [job for job, outcome, _ in results if isinstance(outcome, (Retry, Dead))]
        for name, some in (("ready", ready), ("failed", failed)):
            after_commit(tx, partial(self._metrics.documents.labels(name).inc, len(some)))
        set_files(tx, [made.file for made in ready.values()])
        known = {document_id: made.head for document_id, made in ready.items()}
        new_mails = mails_for(tx, ready, public=self._public, now=now, known=known)
        return {mails.name: add_mails(tx, new_mails, now)}


def _address(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()


def _warning(pdf: bytes) -> str | None:
    unshown = pdf.unshown if isinstance(pdf, Pdf) else ()
    if not unshown:
        return None
    more = f" and {len(unshown) - MOST_NAMED} more" if len(unshown) > MOST_NAMED else ""
    named = " ".join(repr(letter)[1:-1] for letter in unshown[:MOST_NAMED])
    return f"no font of the invoicer has {named}{more}: {REPLACEMENT} stands for each. Install one that has them"


def _e_invoice(snapshot: Snapshot) -> bytes | None:
    """The XML; None for documents that are no invoices, such as receipts."""
    if snapshot.kind not in ("invoice", "credit_note"):
        return None
    try:
        return facturx_xml(snapshot)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
