"""The hot route, `POST /v1/sources/{source_id}/events`: what is checked, in which order, and what each answer is.

    method, content type → source → size → signature over the raw bytes → JSON with an id → one durable commit → 2xx

Whatever fails costs only the request it came with: nothing is stored, and the answer says what the sender can do.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from billhook.errors import BodyRefused, Refused, SignatureRefused
from billhook.metrics import Metrics
from billhook.providers import PROVIDERS
from billhook.rules.signing import UNTIMELY
from billhook.runtime.clock import Clock
from billhook.runtime.group_commit import GroupCommit, LineFull
from billhook.runtime.request_body import BodyTooLarge, Disconnected, is_compressed, read_body
from billhook.store.inbox import Arrival, Receipt
from billhook.store.schema import new_id
from services.ingress.sources import SourceDirectory, SourcesAway

if TYPE_CHECKING:
    from billhook.tracing import Span, Tracing

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
"""Stripe's largest events are a few hundred KB; Standard Webhooks advises under 20 KB."""

MOST_SKEW_SECONDS = 60.0
"""From which on it may be our clock that makes a signature look old, or of the future."""

_CLOCK_WRONG = "The server's clock differs from its database's, and the signature's time cannot be judged. Send again."

_PREFIX = len("/v1/sources/")
_SUFFIX = len("/events")
_KEPT = {name: (*provider.headers, "content-type", "user-agent") for name, provider in PROVIDERS.items()}
"""The headers stored with an event, by provider: those it reads, and two for whoever looks at the event later."""
_OTHERS = ("content-length", "content-encoding", "transfer-encoding", "traceparent")
_READ = {name.encode(): name for kept in _KEPT.values() for name in (*kept, *_OTHERS)}


class Answer(Exception):
    """A refusal on its way out: the status, a code for machines, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = list(headers)


class IngestRoute:
    """The ASGI endpoint."""

    def __init__(
        self,
        line: GroupCommit[Arrival, Receipt],
        sources: SourceDirectory,
        metrics: Metrics,
        clock: Clock,
        tracing: Tracing | None = None,
    ) -> None:
        self._line = line
        self._sources = sources
        self._metrics = metrics
        self._clock = clock
        self._tracing = tracing
        self._accept_seconds = metrics.accept_seconds
        # Children are looked up once: a label lookup takes a lock and a dictionary each time.
        self._answered = {status: metrics.ingress_requests.labels(str(status)) for status in (200, 400, 401, 404, 503)}
        counters = {"duplicate": metrics.events_duplicate, "conflict": metrics.events_conflict}
        self._accepted = functools.cache(metrics.events_accepted.labels)
        self._known = {
            (outcome, provider): counter.labels(provider)
            for outcome, counter in counters.items()
            for provider in PROVIDERS
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = time.perf_counter()
        try:
            body = await self._admit(scope, receive, started)
            status, headers = 200, []
        except Answer as answer:
            status, headers = answer.status, answer.headers
            body = msgspec.json.encode({"error": {"code": answer.code, "message": str(answer)}})
            self._metrics.events_rejected.labels(answer.code).inc()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(body)),
                    *headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})
        counter = self._answered.get(status) or self._metrics.ingress_requests.labels(str(status))
        counter.inc()
        if status == 200:  # a refusal takes no commit: it would hide how slow those are
            self._accept_seconds.observe(time.perf_counter() - started)

    async def _admit(self, scope: Any, receive: Any, started: float) -> bytes:
        headers = {_READ[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
        _check_request(scope["method"], headers)
        source_id = scope["path"][_PREFIX:-_SUFFIX]
        try:
            source = self._sources.known(source_id) or await self._sources.find(source_id)
        except SourcesAway:
            raise Answer(
                503, "source_unavailable", "The source cannot be looked up now. Send again.", (b"retry-after", b"5")
            ) from None
        if source is None:
            raise Answer(404, "unknown_source", "There is no such source. Check the address with `billhook sources`.")
        try:
            body = await read_body(receive, headers.get("content-length", ""), MAX_BODY_BYTES)
        except BodyTooLarge:
            raise Answer(413, "too_large", f"An event may have at most {MAX_BODY_BYTES} bytes.") from None
        except Disconnected:
            raise Answer(400, "disconnected", "The request ended before its body did.") from None
        now = self._clock()
        provider = PROVIDERS[source.provider]
        try:
            provider.verify(headers, body, source.secrets, now)
            envelope = provider.open(headers, body)
        except SignatureRefused as refused:
            if refused.code in UNTIMELY and abs(self._sources.clock_skew) > MOST_SKEW_SECONDS:
                # Whoever is told 401 corrects what was right, and does not send it again.
                raise Answer(503, "clock_wrong", _CLOCK_WRONG, (b"retry-after", b"30")) from None
            raise Answer(401, refused.code, str(refused)) from None
        except BodyRefused as refused:
            raise Answer(400, refused.code, str(refused)) from None
        span = None if self._tracing is None else self._span(self._tracing, headers, started)
        arrival = Arrival(
            new_id("evt"),
            source.merchant_id,
            source.id,
            envelope.account,
            envelope.external_id,
            envelope.type,
            msgspec.json.encode({name: headers[name] for name in _KEPT[source.provider] if name in headers}),
            body,
            hashlib.sha256(envelope.content or body).digest(),
            now,
            None if span is None else span.traceparent,
        )
        receipt = None
        try:
            receipt = await self._line.submit(arrival)
        except LineFull:
            raise Answer(
                503, "busy", "More events are waiting than can be stored in time. Send again.", (b"retry-after", b"1")
            ) from None
        except Refused as refused:
            raise Answer(400, refused.code, str(refused)) from None
        except Exception:
            # The committing thread has logged what it was. The sender needs only to know that nothing was stored.
            raise Answer(
                503, "store_unavailable", "The event could not be stored. Send again.", (b"retry-after", b"5")
            ) from None
        finally:
            if span is not None:
                _end(span, arrival, receipt)
        if receipt.outcome == "accepted":
            self._accepted(source.provider, source.label).inc()
        else:
            self._known[receipt.outcome, source.provider].inc()
        if log.isEnabledFor(logging.INFO):
            about: dict[str, Any] = {"event_id": receipt.id, "merchant_id": source.merchant_id, "source_id": source.id}
            about |= {"type": arrival.type, "external_id": arrival.external_id, "bytes": len(body)}
            log.info(receipt.outcome, extra=about)
        if receipt.outcome == "accepted" and envelope.livemode not in (None, source.livemode):
            self._metrics.events_other_mode.labels("live" if envelope.livemode else "test").inc()
        return b'{"id":"%s","status":"%s"}' % (receipt.id.encode(), receipt.outcome.encode())

    def _span(self, tracing: Tracing, headers: dict[str, str], started: float) -> Span:
        """Only of what is signed: nobody else may add to a trace."""
        ago = time.perf_counter() - started
        return tracing.begin("accept", "server", headers.get("traceparent"), {}, seconds_ago=ago)


def _end(span: Span, arrival: Arrival, receipt: Receipt | None) -> None:
    about = {"merchant_id": arrival.merchant_id, "source_id": arrival.source_id, "type": arrival.type}
    if receipt is not None:
        about["event_id"] = receipt.id
    span.end("not stored" if receipt is None else receipt.outcome, about, failed=receipt is None)


def _check_request(method: str, headers: dict[str, str]) -> None:
    if method != "POST":
        raise Answer(405, "method_not_allowed", "Events are posted: use POST.", (b"allow", b"POST"))
    if not _is_json(headers.get("content-type", "application/json")):
        raise Answer(415, "not_json", "Events are JSON: send Content-Type: application/json.")
    encodings = headers.get("content-encoding", ""), headers.get("transfer-encoding", "")
    if any(encodings) and is_compressed(*encodings):
        raise Answer(415, "compressed", "Events are taken as they were signed: send them without Content-Encoding.")


@functools.lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")
