"""Rendering: a batch of documents becomes pages, one run of the engine, and files that are written once.

perform   snapshot → page → PDF → object store (content-addressed: doing it twice writes the same file)
effects   the file's key, hash and size, in the transaction that marks the document ready
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import sqlalchemy as sa

from billhook.errors import TryAgain
from billhook.metrics import Metrics
from billhook.outlets.objects import Objects, document_key
from billhook.outlets.page import invoice_html
from billhook.outlets.pdf import Renderer, RendererMissing, RenderError
from billhook.queue.consumer import Rings
from billhook.rules.invoice import InvoiceSnapshot
from billhook.rules.retry import MAX_ATTEMPTS, Done, Outcome, Postpone, after_failure
from billhook.runtime.clock import Clock
from billhook.store.database import Tx
from billhook.store.documents import Rendered, documents, set_files
from billhook.store.work import Row

UNTIL_INSTALLED = timedelta(seconds=15)
"""Where the engine is not installed, documents wait; how often they ask whether it is there by now."""


@dataclass(frozen=True, slots=True)
class Commission:
    """One claimed document."""

    id: str
    merchant_id: str
    attempts: int
    snapshot: bytes


Result = tuple[Commission, Outcome, Rendered | None]


class Rendering:
    """The handler of the documents."""

    table: sa.Table = documents
    batch = 20
    lease = timedelta(seconds=10)
    max_attempts = MAX_ATTEMPTS

    def __init__(self, renderer: Renderer, objects: Objects, metrics: Metrics, clock: Clock) -> None:
        self._renderer = renderer
        self._objects = objects
        self._metrics = metrics
        self._clock = clock

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Commission]:
        return [Commission(row["id"], row["merchant_id"], row["attempts"], row["snapshot"]) for row in rows]

    def perform(self, commissions: Sequence[Commission]) -> Sequence[Result]:
        snapshots = [msgspec.json.decode(commission.snapshot, type=InvoiceSnapshot) for commission in commissions]
        pdfs = self._renderer.render(
            [invoice_html(snapshot) for snapshot in snapshots], [_dated(snapshot) for snapshot in snapshots]
        )
        return [self._keep(commission, pdf) for commission, pdf in zip(commissions, pdfs, strict=True)]

    def _keep(self, commission: Commission, pdf: bytes | RenderError) -> Result:
        if isinstance(pdf, RendererMissing):
            return commission, Postpone(self._clock() + UNTIL_INSTALLED, pdf.reason), None
        try:
            if isinstance(pdf, RenderError):
                raise TryAgain(pdf.reason)
            digest = hashlib.sha256(pdf).hexdigest()
            self._objects.put_once(document_key(digest), pdf)
        except Exception as error:
            self._metrics.documents.labels("failed").inc()
            failure = after_failure(error, attempts=commission.attempts, now=self._clock(), jitter=random.random())
            return commission, failure, None
        self._metrics.documents.labels("ready").inc()
        return commission, Done("ready"), Rendered(commission.id, document_key(digest), digest, len(pdf))

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        set_files(tx, [rendered for _, _, rendered in results if rendered is not None])
        return {}


def _dated(snapshot: InvoiceSnapshot) -> datetime:
    """The date inside the file: the invoice's own, so that drawing it again gives the same bytes."""
    invoice = snapshot.invoice
    return invoice.paid_at or invoice.finalized_at or invoice.created or datetime(2000, 1, 1, tzinfo=UTC)
