"""Every metric billhook exports: its labels, and what to do when it moves.

One object a process, on a registry of its own. Labels never hold an id, a URL or anything of a customer's: their values
come from short lists.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_WAIT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """All metrics. A sentence in each says what a change of it asks for."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"billhook_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"billhook_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"billhook_{name}", text, labels, registry=registry, buckets=buckets)

        self.ingress_requests = counter(
            "ingress_requests_total", "Answers at the door. 5xx: senders are retrying; look at the database.", "code"
        )
        self.ingress_seconds = histogram(
            "ingress_request_duration_seconds",
            "From the last byte of a request to its answer. Rising: commits are slow.",
            buckets=_FAST,
        )
        self.events_accepted = counter(
            "events_accepted_total", "New events made durable. Falling to nothing: ask the sender.", "provider"
        )
        self.events_duplicate = counter("events_duplicate_total", "Known events sent again. Harmless.", "provider")
        self.events_conflict = counter(
            "events_conflict_total",
            "A known id with other bytes: kept beside the first. Look at them: `billhook events conflicts`.",
            "provider",
        )
        self.events_other_mode = counter(
            "events_other_mode_total",
            "New events of test mode at a live source, or the other way round: kept, and ignored. Many: is the source's"
            " mode right? `billhook sources set-mode`.",
            "mode",
        )
        self.events_rejected = counter(
            "events_rejected_total",
            "Events refused at the door. Many of `signature_mismatch`: a secret was rotated on one side only.",
            "reason",
        )
        self.requests_cut = counter(
            "http_requests_cut_total",
            "Requests and connections that a server ended by itself: `slow` to arrive, too many connections (`full`),"
            " more `bodies` than it holds at once. Many: who is that?",
            "reason",
        )
        self.commit_rows = histogram(
            "ingress_commit_batch_rows",
            "Events sharing one commit. Growing is how the door keeps up.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.jobs_claimed = counter("jobs_claimed_total", "Work taken by a consumer.", "queue")
        self.jobs_finished = counter(
            "jobs_finished_total",
            "Work settled. `dead`: read the dead letters. `stale`: a lease is shorter than its work.",
            "queue",
            "outcome",
        )
        self.job_wait = histogram(
            "job_wait_seconds", "From due to claimed. Rising: add consumers.", "queue", buckets=_WAIT
        )
        self.job_seconds = histogram(
            "job_duration_seconds", "From claimed to settled, for a batch.", "queue", buckets=_WAIT
        )
        self.rings_failed = counter(
            "ring_send_failures_total", "Rings the queue did not take. Nothing is lost; look at Redis.", "queue"
        )
        self.degraded = gauge(
            "degraded_mode", "1 while a consumer hears nothing from the queue and reads SQL itself.", "queue"
        )
        self.store_errors = counter(
            "store_errors_total", "Transactions the database refused or broke off. Look at the database.", "queue"
        )
        self.rerung = counter(
            "sweeper_rerung_total", "Due work the relay rang for again. Steady growth: rings are lost.", "queue"
        )
        self.clock_skew = gauge(
            "database_clock_skew_seconds",
            "By how much the database's clock is ahead of this process's. Beyond 1: work is early or late;"
            " set both by NTP.",
        )
        self.swept_at = gauge(
            "sweeper_last_success_timestamp_seconds", "When a sweep last ended well. Older than a minute: no relay."
        )
        self.ready = gauge("queue_ready_jobs", "Due and not held. Rising for long: add consumers.", "queue")
        self.running = gauge("queue_running_jobs", "Held under a lease.", "queue")
        self.scheduled = gauge("queue_scheduled_jobs", "Waiting for their time (retries).", "queue")
        self.expired = gauge(
            "queue_expired_lease_jobs", "Leases that ran out. For minutes: nobody takes over.", "queue"
        )
        self.oldest = gauge(
            "queue_oldest_ready_age_seconds", "Age of the longest-due work. The one to alert on.", "queue"
        )
        self.deliveries = counter(
            "webhook_deliveries_total", "Attempts at endpoints. One class rising: read the attempts.", "outcome"
        )
        self.delivery_seconds = histogram(
            "webhook_delivery_duration_seconds", "One attempt, from connecting to the last byte read.", buckets=_WAIT
        )
        self.in_flight = gauge("webhook_deliveries_in_flight", "Requests under way at this moment.")
        self.connections = counter(
            "webhook_connections_total", "New connections to endpoints. Near the deliveries: they are not reused."
        )
        self.deferred = counter(
            "webhook_deliveries_deferred_total",
            "Deliveries deferred untried: a breaker, a cap, a rate limit or an order. Steady: an endpoint lags behind.",
        )
        self.open_breakers = gauge(
            "webhook_open_breakers", "Endpoints this process leaves alone because they fail. Many: is it our network?"
        )
        self.pruned = counter(
            "retention_pruned_total",
            "Rows whose time was over: deleted, or emptied (messages). Nothing for days: no relay.",
            "table",
        )
        self.collected = counter(
            "payment_attempts_total",
            "Attempts to collect, as they were settled. `unknown` rising: the provider does not answer; `canceled`: it"
            " retries by itself, or was paid meanwhile.",
            "status",
        )
        self.reconciliation_runs = counter(
            "reconciliation_runs_total",
            "Comparisons with providers that ended. `incomplete`: `billhook reconcile report` says what was left out."
            " None for hours: no reconciler.",
            "outcome",
        )
        self.reconciliation_compared = counter(
            "reconciliation_compared_total", "Events and objects compared with what the provider shows."
        )
        self.reconciliation_findings = counter(
            "reconciliation_findings_total",
            "Differences that last. Any: `billhook reconcile findings`; `missing_event`: are webhooks refused or lost?",
            "finding_class",
        )
        self.documents = counter(
            "documents_rendered_total", "Documents made. `failed`: the reason is in the log and on the row.", "outcome"
        )
