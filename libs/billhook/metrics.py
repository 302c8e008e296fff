"""Every metric billhook exports: its labels, and what to do when it moves.

Each is declared once, and begins to exist in a process when something there first asks for it: no process exports a
zero for what another one measures. Labels never hold an id, a URL or anything of a customer's: their values come from
short lists.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Generic, Self, TypeVar, overload

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_WAIT: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800)
_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Declared(Generic[Metric]):
    """A metric of `Metrics`: registered when it is first read from an instance."""

    def __init__(
        self, kind: type[Metric], name: str, text: str, labels: tuple[str, ...], *, of_ledger: bool = False, **more: Any
    ) -> None:
        self.name = f"billhook_{name}"
        self.kind = kind.__name__.lower()
        self._make: Callable[..., Metric] = kind
        self.text = text
        self.labels = labels
        self.of_ledger = of_ledger
        """Read from SQL: gone while it cannot be read (`Metrics.forget_ledger`)."""
        self._more = more

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Metrics, owner: type) -> Metric: ...
    def __get__(self, instance: Metrics | None, owner: type) -> Self | Metric:
        if instance is None:
            return self
        with instance.lock:
            made: Metric | None = instance.__dict__.get(self._attribute)  # by another thread, meanwhile
            if made is None:
                made = self._make(self.name, self.text, self.labels, registry=instance.registry, **self._more)
                instance.__dict__[self._attribute] = made
            return made

    def forget(self, instance: Metrics) -> None:
        """Export it no more, until it is measured again."""
        with instance.lock:
            made = instance.__dict__.pop(self._attribute, None)
            if made is not None:
                instance.registry.unregister(made)


def counter(name: str, text: str, *labels: str) -> Declared[Counter]:
    return Declared(Counter, name, text, labels)


def gauge(name: str, text: str, *labels: str) -> Declared[Gauge]:
    return Declared(Gauge, name, text, labels)


def ledger(name: str, text: str, *labels: str) -> Declared[Gauge]:
    """A gauge that relays read from SQL. All of them say the same, so take the `max`."""
    return Declared(Gauge, name, text, labels, of_ledger=True)


def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Declared[Histogram]:
    return Declared(Histogram, name, text, labels, buckets=buckets)


class Metrics:
    """What one process exports, on a registry of its own. A sentence at each metric says what a change of it asks
    for."""

    def __init__(self) -> None:
        # A series beside each counter that says when it was made, doubling what Prometheus keeps.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.lock = threading.Lock()
        ProcessCollector(registry=self.registry)

    def exported(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self.registry)

    def forget_ledger(self) -> None:
        """Export nothing of what was read from SQL: it cannot be read now, and a figure that stands still misleads."""
        for declared in DECLARED:
            if declared.of_ledger:
                declared.forget(self)

    # Every process.

    build = gauge(
        "build_info",
        "1, with the version of the code and the schema it works with. Several at once: a release is under way, or a"
        " process was left out.",
        "service",
        "version",
        "schema",
        "python",
    )
    clock_skew = gauge(
        "database_clock_skew_seconds",
        "By how much the database's clock is ahead of this process's. Beyond 1: work is early or late; set both by"
        " NTP. Gone while the database is away.",
    )
    pool = gauge(
        "database_pool_connections",
        "Connections of this process to the database, `in_use` and `idle`, in the pool of `transactions` and in that of"
        " `statements` that are one by themselves. In use near the limit: they are slow, or wait for each other.",
        "pool",
        "state",
    )
    pool_limit = gauge(
        "database_pool_limit", "How many connections this process may hold at most, in each of its pools.", "pool"
    )
    database_wait = histogram(
        "database_wait_seconds",
        "Waiting for a connection, and on SQLite for the turn to write. Rising: the database is slow, or one writer is"
        " not enough: PostgreSQL has many.",
        buckets=_FAST,
    )
    gc_seconds = counter(
        "gc_seconds_total",
        "Time in which the garbage collector let nothing else run. More than a hundredth of the time: tell us.",
    )
    log_errors = counter(
        "log_errors_total", "Lines logged as an error or worse. Rising: the log says what; see the runbooks.", "level"
    )

    # Servers: ingress and desk.

    connections_open = gauge(
        "http_connections_open",
        "Connections of clients. Near 10,000, or the limit of open files: who keeps them?",
    )
    requests_cut = counter(
        "http_requests_cut_total",
        "Requests and connections that a server ended by itself: `slow` to arrive, too many connections (`full`),"
        " more of a `head` than anybody needs, more `bodies` than it holds at once, what is `malformed`, many requests"
        " at once on one connection (`pipelined`), and answers that nobody takes (`unread`). Many: who is that?",
        "reason",
    )

    # Ingress.

    ingress_requests = counter(
        "ingress_requests_total", "Answers at the door. 5xx: senders are retrying; look at the database.", "code"
    )
    accept_seconds = histogram(
        "ingress_accept_duration_seconds",
        "From the start of a request that was taken (2xx) to its answer. Rising: commits are slow.",
        buckets=_FAST,
    )
    events_accepted = counter(
        "events_accepted_total",
        "New events made durable. A source falling to nothing: ask the sender. By the names of the first 50 sources;"
        " the others share `other`.",
        "provider",
        "source",
    )
    events_duplicate = counter("events_duplicate_total", "Known events sent again. Harmless.", "provider")
    events_conflict = counter(
        "events_conflict_total",
        "A known id with other bytes: kept beside the first. Look at them: `billhook events conflicts`.",
        "provider",
    )
    events_other_mode = counter(
        "events_other_mode_total",
        "New events of test mode at a live source, or the other way round: kept, and ignored. Many: is the source's"
        " mode right? `billhook sources set-mode`.",
        "mode",
    )
    events_rejected = counter(
        "events_rejected_total",
        "Events refused at the door. Many of `signature_mismatch`: a secret was rotated on one side only.",
        "reason",
    )
    commit_rows = histogram(
        "ingress_commit_batch_rows",
        "Events sharing one commit. Growing is how the door keeps up.",
        buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    )

    # Consumers.

    jobs_claimed = counter("jobs_claimed_total", "Work taken by a consumer, by its queue and lane.", "queue")
    jobs_finished = counter(
        "jobs_finished_total",
        "Work settled, by the state it ended in (`processed`, `delivered`, `ready`, `sent` …), or `retry`, `deferred`,"
        " `dead`, `stale`. `dead`: read the dead letters. `stale`: a lease is shorter than its work.",
        "queue",
        "outcome",
    )
    job_wait = histogram(
        "job_wait_seconds", "From due to claimed, by queue and lane. Rising: add consumers.", "queue", buckets=_WAIT
    )
    job_seconds = histogram(
        "job_duration_seconds",
        "From claimed to settled, with whatever shared its batch. Rising while the wait does not: what it asks"
        " (provider, engine, endpoint) is slow.",
        "queue",
        buckets=_WAIT,
    )
    job_attempts = histogram(
        "job_attempts",
        "Claims that work took until it ended. Beyond 1 for much of it: something fails and recovers; the log says"
        " what.",
        "queue",
        buckets=(1, 2, 3, 5, 8, 11, 20),
    )
    jobs_in_progress = gauge("jobs_in_progress", "Work that this process has in hand.", "queue")
    job_capacity = gauge(
        "job_capacity",
        "How much of it this process may have in hand. No process has any: nobody works this queue. In progress near"
        " it for long: add consumers.",
        "queue",
    )
    degraded = gauge(
        "degraded_mode",
        "1 while a consumer hears nothing from the queue and reads SQL itself. Nothing is lost; look at Redis.",
        "queue",
    )
    store_errors = counter(
        "store_errors_total", "Transactions the database refused or broke off. Look at the database.", "queue"
    )
    rings_failed = counter(
        "ring_send_failures_total", "Rings the queue did not take. Nothing is lost; look at Redis.", "queue"
    )

    # Courier.

    deliveries = counter(
        "webhook_deliveries_total",
        "Attempts at endpoints, by what came of them. One outcome rising: read the attempts.",
        "outcome",
    )
    delivery_seconds = histogram(
        "webhook_delivery_duration_seconds", "One attempt, from connecting to the last byte read.", buckets=_WAIT
    )
    connections = counter(
        "webhook_connections_total", "New connections to endpoints. Near the deliveries: they are not reused."
    )
    deferred = counter(
        "webhook_deliveries_deferred_total",
        "Deliveries deferred untried: a breaker, a cap, a rate limit or an order. Steady: an endpoint lags behind.",
    )
    open_breakers = gauge(
        "webhook_open_breakers", "Endpoints this process leaves alone because they fail. Many: is it our network?"
    )

    # Invoicer, dunner, reconciler.

    documents = counter(
        "documents_rendered_total", "Documents made. `failed`: the reason is in the log and on the row.", "outcome"
    )
    document_seconds = counter(
        "document_stage_seconds_total",
        "Time that documents took: `data` (reading and wording), `draw` (with the wait for an engine), `e_invoice`,"
        " `store`. By `documents_rendered_total`, it is that of one; `store` rising: the disk or bucket is slow.",
        "stage",
    )
    collected = counter(
        "payment_attempts_total",
        "Attempts to collect, as they were settled. `unknown` rising: the provider does not answer; `canceled`: it"
        " retries by itself, or was paid meanwhile.",
        "status",
    )
    reconciliation_runs = counter(
        "reconciliation_runs_total",
        "Comparisons with providers that ended. `incomplete`: `billhook reconcile report` says what was left out."
        " None for hours: no reconciler.",
        "outcome",
    )
    reconciliation_compared = counter(
        "reconciliation_compared_total", "Events and objects compared with what the provider shows."
    )
    reconciliation_findings = counter(
        "reconciliation_findings_total",
        "Differences that last, as they were found. Any: `billhook reconcile findings`; `missing_event`: are webhooks"
        " refused or lost?",
        "finding_class",
    )

    # Relay.

    rerung = counter(
        "sweeper_rerung_total", "Due work the relay rang for again. Steady growth: rings are lost.", "queue"
    )
    swept_at = gauge(
        "sweeper_last_success_timestamp_seconds", "When a sweep last ended well. Older than a minute: no relay."
    )
    pruned = counter(
        "retention_pruned_total",
        "Rows whose time was over: deleted, or emptied (messages). Nothing for days: no relay.",
        "table",
    )

    # Relay: the ledger, read from SQL every five seconds. Each count ends at 100,000.

    ready = ledger("queue_ready_jobs", "Due, and not held by anybody alive. Rising for long: add consumers.", "queue")
    running = ledger("queue_running_jobs", "Held under a lease.", "queue")
    scheduled = ledger("queue_scheduled_jobs", "Waiting for their time (retries, calendars).", "queue")
    expired = ledger(
        "queue_expired_lease_jobs",
        "Of those that are ready: whose lease ran out, because their consumer died. For minutes: nobody takes over.",
        "queue",
    )
    oldest = ledger(
        "queue_oldest_ready_age_seconds", "Age of the longest-due work. The one to alert on; see its target.", "queue"
    )
    latency_target = ledger(
        "queue_latency_target_seconds", "How soon after it is due work of this queue is to be taken.", "queue"
    )
    queue_paused = ledger(
        "queue_paused", "1 while a person has stopped the queue: nothing of it is taken until it is resumed.", "queue"
    )
    dead_letters = ledger(
        "dead_letters_open",
        "Dead letters that nobody has replayed or discarded, by why the work was given up: `attempts_used_up`,"
        " `kills_its_worker`, `cannot_be_written`, or `refused`: it can never succeed as it is."
        " `billhook dead-letters list` has the words.",
        "queue",
        "reason",
    )
    held_deliveries = ledger(
        "deliveries_held",
        "Deliveries kept for endpoints that are disabled. Rising: tell their merchants; replay once they are back.",
    )
    failing_endpoints = ledger("endpoints_failing", "Endpoints whose last attempts failed. Many: is it our network?")
    disabled_endpoints = ledger(
        "endpoints_disabled", "Endpoints that nothing is sent to, by a person or after five days of failures."
    )
    dunning_cases = ledger(
        "dunning_cases",
        "Dunning cases that are not over, by stage. `retrying` growing: what do the declines say?",
        "stage",
    )
    dunning_steps = ledger(
        "dunning_transitions",
        "What happened to dunning cases in the last 24 hours, by its cause. `declined_for_good` or `method_missing`"
        " growing: customers have to be asked for another card. `unanswerable`: see the runbook of unknown payments.",
        "cause",
    )
    dunning_ended = ledger(
        "dunning_ended_cases",
        "Cases that ended in the last 24 hours, by stage. `exhausted` beside `recovered` is how well dunning works.",
        "stage",
    )
    recovered = ledger(
        "dunning_recovered_amount",
        "Money that dunning recovered in the last 24 hours, in the currency's main unit.",
        "currency",
    )
    findings = ledger(
        "reconciliation_findings_open",
        "Differences between a provider and the book that nobody repaired or accepted. Any:"
        " `billhook reconcile findings`.",
        "finding_class",
    )
    reconciliation_age = ledger(
        "reconciliation_age_seconds",
        "Since a comparison of this source was last complete (or since the source was made). Beyond two hours: no"
        " reconciler, or a key that is refused. Sources by name, as of the accepted events.",
        "source",
    )
    schema = ledger(
        "database_schema_version", "The schema that the database is at. Beside `build_info`: does a release fit?"
    )


DECLARED: Final = tuple(value for value in vars(Metrics).values() if isinstance(value, Declared))
