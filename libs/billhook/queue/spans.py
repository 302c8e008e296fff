"""The spans of a consumer: one for each unit of work, from its claim to its settling, where traces are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from billhook.rules.retry import Dead, Defer, Done, Outcome, Retry
from billhook.store.work import Row

if TYPE_CHECKING:
    from billhook.tracing import Span, Tracing


class UnitSpans:
    """The spans of the work that is in hand. Without `tracing` it does nothing."""

    def __init__(self, tracing: Tracing | None, queue: str) -> None:
        self._tracing = tracing
        self._queue = queue
        self._open: dict[str, Span] = {}

    @property
    def wanted(self) -> bool:
        return self._tracing is not None

    def begun(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Begin a span for each claimed row. Returns the rows as their handler is to see them: their `traceparent` is
        that of their own span, so that what the handler makes of them belongs to it."""
        return rows if self._tracing is None else [self._begun(self._tracing, row) for row in rows]

    def _begun(self, tracing: Tracing, row: Row) -> Row:
        about = {"queue": self._queue, "id": row["id"], "merchant_id": row["merchant_id"], "attempt": row["attempts"]}
        span = tracing.begin(f"process {self._queue}", "consumer", row.get("traceparent"), about)
        self._open[row["id"]] = span
        return {**row, "traceparent": span.traceparent} if "traceparent" in row else row

    @contextmanager
    def of(self, ids: Iterable[str]) -> Iterator[None]:
        """The block does this work. What has not been settled by its end is somebody else's from then on."""
        try:
            yield
        finally:
            if self._open:
                for row_id in ids:
                    if (span := self._open.pop(row_id, None)) is not None:
                        span.end("not settled", {}, failed=True)

    def settling(self, ids: Iterable[str]) -> AbstractContextManager[None]:
        """A span for the transaction that settles these, with a link to each."""
        if self._tracing is None:
            return nullcontext()
        members = [span.traceparent for row_id in ids if (span := self._open.get(row_id)) is not None]
        about = {"queue": self._queue, "count": len(members)}
        return self._tracing.together(f"settle {self._queue}", members, about)

    def end(self, row_id: str, outcome: Outcome, about: Mapping[str, Any]) -> None:
        """It was settled."""
        if (span := self._open.pop(row_id, None)) is not None:
            end_of_attempt(span, outcome, about)


def end_of_attempt(span: Span, outcome: Outcome, about: Mapping[str, Any]) -> None:
    span.end(_said(outcome), about, failed=isinstance(outcome, (Dead, Retry)))


def _said(outcome: Outcome) -> str:
    match outcome:
        case Done(state):
            return state
        case Retry():
            return "retry"
        case Defer():
            return "deferred"
        case Dead():
            return "dead"
