"""What is wrong in an installation, and what to do about it: for the console's overview and for `billhook doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from billhook.store import work
from billhook.store.database import Tx
from billhook.store.figures import MOST, open_findings, troubled_endpoints, warned_sources
from billhook.store.queue_pauses import Pause, paused
from billhook.store.queues import BELLS, QUEUES
from billhook.store.work import Backlog

Severity = Literal["broken", "warning"]

CONSUMERS: Final[Mapping[str, str]] = {
    "inbox": "bookkeeper",
    "documents": "invoicer",
    "deliveries": "courier",
    "mails": "courier",
    "replays": "relay",
    "dunning_cases": "dunner",
    "payment_attempts": "dunner",
    "reconciliation_runs": "reconciler",
}
"""Which service works a queue."""


@dataclass(frozen=True)
class Complaint:
    """Something that wants a person."""

    severity: Severity
    what: str
    do: str
    """What to do about it."""
    path: str | None = None
    """Where the console shows it."""
    since: datetime | None = None


QueueState = Literal["ok", "late", "stuck", "paused"]


@dataclass(frozen=True)
class QueueShown:
    """A queue as people ask for it: what waits, for how long, and does anybody work it."""

    name: str
    backlog: Backlog
    pause: Pause | None
    consumer: str

    @property
    def oldest(self) -> timedelta:
        return timedelta(seconds=self.backlog.oldest_ready_seconds)

    @property
    def target(self) -> timedelta:
        """As the alerts have it; of the deliveries that of first attempts."""
        return timedelta(seconds=BELLS[self.name].target_seconds)

    @property
    def state(self) -> QueueState:
        if self.pause is not None:
            return "paused"
        if self.oldest <= self.target:
            return "ok"
        return "late" if self.backlog.running else "stuck"


MOST_COUNTED: Final = 10_000
"""Of what waits in a queue: it is for a person to read."""


def queues_shown(tx: Tx, now: datetime) -> list[QueueShown]:
    """Every queue, counted up to `MOST_COUNTED`."""
    stopped = paused(tx)
    states = work.backlogs(tx, [(table, None) for table in QUEUES.values()], now=now, most=MOST_COUNTED)
    return [
        # The name of a table is a string with more to it.
        QueueShown(str(name), state, stopped.get(name), CONSUMERS.get(name, "consumer"))
        for name, state in zip(QUEUES, states, strict=True)
    ]


def complaints(tx: Tx, queues: list[QueueShown], letters: Mapping[str, int]) -> list[Complaint]:
    """What the ledger itself shows to be wrong, the worst first; `letters` are those that are open, by queue."""
    found = [*_of_queues(queues), *_of_letters(letters), *_of_endpoints(tx), *_of_sources(tx), *_of_findings(tx)]
    return sorted(found, key=lambda complaint: complaint.severity != "broken")


def _of_queues(queues: list[QueueShown]) -> Iterator[Complaint]:
    for queue in queues:
        oldest = f"{queue.oldest.total_seconds():,.0f} seconds"
        if queue.state == "stuck":
            yield Complaint(
                "broken",
                f"Nobody works {queue.name}: the oldest has been due for {oldest}.",
                f"Is the {queue.consumer} running, and what does its log say? `billhook services` names them all.",
                "/queues",
            )
        elif queue.state == "late":
            yield Complaint(
                "warning",
                f"{queue.name} is behind: the oldest has been due for {oldest}.",
                f"It is being worked. Where that does not help, run another {queue.consumer}.",
                "/queues",
            )
        elif queue.pause is not None:
            yield Complaint(
                "warning",
                f"{queue.name} is paused by {queue.pause.paused_by}: {queue.pause.reason.rstrip('.')}.",
                "Resume it when the reason is over: `billhook queues resume`, or at the console.",
                "/queues",
                queue.pause.paused_at,
            )
        if queue.backlog.expired_leases:
            yield Complaint(
                "warning",
                f"{queue.backlog.expired_leases} in {queue.name} were taken by a worker that gave no sign of life.",
                "They are taken again by themselves. Where it happens often, something kills the workers: memory?",
                "/queues",
            )


def _of_letters(letters: Mapping[str, int]) -> Iterator[Complaint]:
    for queue, number in letters.items():
        said = f"{number:,}" if number < MOST else f"{MOST:,} or more"
        yield Complaint(
            "broken",
            f"{said} dead letter{'s' if number != 1 else ''} in {queue}.",
            "Read the reasons, mend what they name, then replay or discard: `billhook dead-letters list`.",
            f"/dead-letters?queue={queue}",
        )


def _of_endpoints(tx: Tx) -> Iterator[Complaint]:
    for endpoint in troubled_endpoints(tx):
        where = f"/endpoints/{endpoint.id}"
        if endpoint.disabled_at is not None:
            why = endpoint.disabled_reason or "no reason was given"
            yield Complaint(
                "warning",
                f"Nothing is sent to {endpoint.url}: {why}.",
                "What comes meanwhile is held. Enable it when its receiver is well: `billhook endpoints enable`.",
                where,
            )
        elif endpoint.failing_since is not None:
            yield Complaint(
                "warning",
                f"Nothing has arrived at {endpoint.url}.",
                "Its attempts say what it answers. billhook goes on trying, and disables it in the end.",
                where,
                endpoint.failing_since,
            )


def _of_sources(tx: Tx) -> Iterator[Complaint]:
    for source in warned_sources(tx):
        yield Complaint("warning", f"The source {source.name}: {source.warning}", "See `billhook sources list`.")


def _of_findings(tx: Tx) -> Iterator[Complaint]:
    number = open_findings(tx)
    if number:
        said = f"{number:,}" if number < MOST else f"{MOST:,} or more"
        yield Complaint(
            "warning",
            f"{said} difference{'s' if number != 1 else ''} between the book and a provider.",
            "Look at both sides, then repair or accept: `billhook reconcile report`.",
            "/findings",
        )
