"""Switches that make the fake misbehave: for the next N times, or each time with a seeded probability."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

ApiFaultKind = Literal[
    "rate_limit",
    "server_error",
    "conflict",
    "timeout_before",
    "timeout_after",
    "forbidden",
    "circle",
    "repeat",
    "skip",
    "unknown_version",
]
"""The last four befall lists: the first page again, the first object twice, the first left out, and one that is shaped
as no API version that anybody knows."""
WebhookFaultKind = Literal["duplicate", "drop", "delay", "reorder"]


@dataclass
class Fault:
    """One switch. With `times` it is used up after so many; with `probability` it stays."""

    kind: str
    times: int | None = 1
    probability: float = 1.0
    prefix: str = ""
    """Only paths (of the API) or event types (of webhooks) that begin with this."""
    method: str | None = None
    """Only this HTTP method (API faults)."""
    account: str | None = None
    """Only requests for this connected account (API faults)."""
    retry_after: int = 1
    """Seconds that a rate limit asks to wait."""
    hang_seconds: float | None = None
    """How long a time-out keeps the connection silent before closing it; None closes it at once."""
    seconds: float = 0.2
    """How long a delayed webhook waits, in real time."""
    window: int = 3
    """How many webhooks are gathered, then sent in another order."""


@dataclass
class Switches:
    """The faults of one side, tried in the order they were set; the first that applies is taken."""

    seed: str
    _faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self._lock = threading.Lock()

    def set(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, subject: str, kinds: Iterable[str], method: str | None = None, account: str = "") -> Fault | None:
        """The fault that befalls this request or event, used up by one."""
        with self._lock:
            for fault in self._faults:
                if fault.kind not in kinds or not subject.startswith(fault.prefix) or fault.times == 0:
                    continue
                if fault.method not in (None, method) or fault.account not in (None, account):
                    continue
                if self.dice.random() >= fault.probability:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


class Faults:
    """`faults.api(…)` and `faults.webhooks(…)` set a switch, `faults.clear()` ends them all.

    Give `times` (1 unless said otherwise) or `probability`.
    """

    def __init__(self, seed: int) -> None:
        self.for_api = Switches(f"{seed}:api faults")
        self.for_webhooks = Switches(f"{seed}:webhook faults")

    def api(
        self,
        kind: ApiFaultKind,
        *,
        times: int | None = None,
        probability: float | None = None,
        path: str = "",
        method: str | None = None,
        account: str | None = None,
        retry_after: int = 1,
        hang_seconds: float | None = None,
    ) -> None:
        """Befall API requests: `timeout_before` loses the request, `timeout_after` only its answer."""
        _check(kind, get_args(ApiFaultKind))
        self.for_api.set(
            Fault(
                kind,
                *_how_often(times, probability),
                prefix=path,
                method=method,
                account=account,
                retry_after=retry_after,
                hang_seconds=hang_seconds,
            )
        )

    def webhooks(
        self,
        kind: WebhookFaultKind,
        *,
        times: int | None = None,
        probability: float | None = None,
        type: str = "",
        seconds: float = 0.2,
        window: int = 3,
    ) -> None:
        """Befall webhooks. What is dropped is never sent; it stays in the event log."""
        _check(kind, get_args(WebhookFaultKind))
        self.for_webhooks.set(Fault(kind, *_how_often(times, probability), prefix=type, seconds=seconds, window=window))

    def clear(self) -> None:
        self.for_api.clear()
        self.for_webhooks.clear()


def _how_often(times: int | None, probability: float | None) -> tuple[int | None, float]:
    if probability is None:
        return (1 if times is None else times), 1.0
    return times, probability


def _check(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(f"{kind!r} is no fault; known: {', '.join(known)}")
