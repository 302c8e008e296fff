"""The dashboards as code: `python deploy/grafana/dashboards.py` (part of `make docs`) writes them for Grafana.

A panel is a question, the expressions that answer it, and what to do about the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 8, 8


@dataclass(frozen=True)
class Panel:
    title: str
    about: str
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)."""
    unit: str = "short"
    kind: str = "timeseries"
    signed: bool = False
    """Whether there may be less than nothing of it."""


@dataclass(frozen=True)
class Dashboard:
    name: str
    title: str
    panels: tuple[Panel, ...]
    by_queue: bool = False
    """Whether a queue can be chosen."""


def quantiles(histogram: str, *quantiles: float, where: str = "", by: str = "") -> tuple[tuple[str, str], ...]:
    labels, legend = (f"{by}, le", f" {{{{{by}}}}}") if by else ("le", "")
    return tuple(
        (
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({histogram}_bucket{where}[$__rate_interval])))",
            f"p{quantile * 100:g}{legend}",
        )
        for quantile in quantiles
    )


def rate(counter: str, *by: str, where: str = "") -> tuple[tuple[str, str], ...]:
    grouped = f" by ({', '.join(by)})" if by else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in by) or "all"  # without one Grafana writes the whole expression
    return ((f"sum{grouped} (rate({counter}{where}[$__rate_interval]))", legend),)


CHOSEN: Final = '{queue=~"$queue"}'

OVERVIEW: Final = Dashboard(
    "overview",
    "billhook: overview",
    (
        Panel(
            "Alerts that fire",
            "Each has a page in docs/runbooks.",
            (('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),),
            kind="stat",
        ),
        Panel(
            "How fast the budgets burn",
            "1 is what a month allows. Beyond 14 for an hour wakes somebody.",
            (("billhook:slo_errors:ratio_rate1h / on (slo) billhook:slo_budget:ratio", "{{slo}}"),),
        ),
        Panel(
            "Processes",
            "Those that answer, by service.",
            (("sum by (job) (up)", "{{job}}"),),
        ),
        Panel(
            "Events accepted",
            "By source. One that falls to nothing: ask the sender.",
            rate("billhook_events_accepted_total", "source"),
            "cps",
        ),
        Panel(
            "Answers at the door",
            "5xx: look at the database.",
            rate("billhook_ingress_requests_total", "code"),
            "reqps",
        ),
        Panel(
            "How long taking an event takes",
            "Rising: commits are slow.",
            quantiles("billhook_ingress_accept_duration_seconds", 0.5, 0.99),
            "s",
        ),
        Panel(
            "How long the oldest work has been due",
            "By queue, beside its target below.",
            (("billhook:queue_oldest_ready_age_seconds", "{{queue}}"),),
            "s",
        ),
        Panel(
            "Times over its target",
            "Beyond 5 for two minutes wakes somebody.",
            (("billhook:queue_lateness", "{{queue}}"),),
        ),
        Panel(
            "Dead letters",
            "Open ones: replay or discard each.",
            (("sum by (queue) (billhook:dead_letters_open)", "{{queue}}"),),
        ),
        Panel(
            "Without Redis",
            "1 while a consumer reads SQL itself: nothing is lost.",
            (("max by (queue) (billhook_degraded_mode)", "{{queue}}"),),
        ),
        Panel(
            "Lines logged as errors",
            "Rising: the log of that process says what.",
            rate("billhook_log_errors_total", "job"),
            "cps",
        ),
        Panel(
            "Since the last sweep",
            "Beyond a minute: no relay.",
            (("time() - max(billhook_sweeper_last_success_timestamp_seconds)", "seconds"),),
            "s",
        ),
    ),
)

QUEUES: Final = Dashboard(
    "queues",
    "billhook: queues",
    (
        Panel(
            "Work that is there",
            "Ready rising for long: add consumers.",
            (
                (f"max by (queue) (billhook_queue_ready_jobs{CHOSEN})", "ready {{queue}}"),
                (f"max by (queue) (billhook_queue_running_jobs{CHOSEN})", "running {{queue}}"),
                (f"max by (queue) (billhook_queue_scheduled_jobs{CHOSEN})", "scheduled {{queue}}"),
            ),
        ),
        Panel(
            "From due to claimed",
            "Each colour is a share of the work.",
            ((f"sum by (le) (rate(billhook_job_wait_seconds_bucket{CHOSEN}[$__rate_interval]))", "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "From claimed to settled",
            "Rising while the wait does not: what it asks is slow.",
            quantiles("billhook_job_duration_seconds", 0.5, 0.95, 0.99, where=CHOSEN),
            "s",
        ),
        Panel(
            "How work ended",
            "`dead`: read the dead letters. `stale`: a lease is shorter than its work.",
            rate("billhook_jobs_finished_total", "queue", "outcome", where=CHOSEN),
            "cps",
        ),
        Panel(
            "Taken",
            "Nothing although work is ready: nobody works the queue.",
            rate("billhook_jobs_claimed_total", "queue", where=CHOSEN),
            "cps",
        ),
        Panel(
            "How full the consumers are",
            "Near 100 % for long: add consumers.",
            (
                (
                    f"sum by (queue) (billhook_jobs_in_progress{CHOSEN})"
                    f" / sum by (queue) (billhook_job_capacity{CHOSEN})",
                    "{{queue}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Claims until it ended",
            "Beyond 1 for much of it: something fails and recovers.",
            quantiles("billhook_job_attempts", 0.5, 0.99, where=CHOSEN, by="queue"),
        ),
        Panel(
            "Left by consumers that died",
            "For minutes: nobody takes over.",
            ((f"max by (queue) (billhook_queue_expired_lease_jobs{CHOSEN})", "{{queue}}"),),
        ),
        Panel(
            "Paused by a person",
            "1: nothing of it is taken until it is resumed.",
            ((f"max by (queue) (billhook_queue_paused{CHOSEN})", "{{queue}}"),),
        ),
        Panel(
            "Rung for again",
            "Steady: rings are lost.",
            ((f"sum(rate(billhook_sweeper_rerung_total{CHOSEN}[$__rate_interval])) or vector(0)", "ids"),),
            "cps",
        ),
    ),
    by_queue=True,
)

WEBHOOKS: Final = Dashboard(
    "webhooks",
    "billhook: webhooks",
    (
        Panel(
            "Attempts by what came of them",
            "`timeout`, `connect` or `dns` everywhere: our network.",
            rate("billhook_webhook_deliveries_total", "outcome"),
            "reqps",
        ),
        Panel(
            "One attempt",
            "Of all endpoints.",
            quantiles("billhook_webhook_delivery_duration_seconds", 0.5, 0.95, 0.99),
            "s",
        ),
        Panel(
            "First attempts: from due to begun",
            "99 % are to be within 10 s.",
            quantiles("billhook_job_wait_seconds", 0.5, 0.99, where='{queue="deliveries"}'),
            "s",
        ),
        Panel(
            "Due, by lane",
            "Retries and replays wait for room; first attempts do not.",
            (('billhook:queue_ready_jobs{queue=~"deliveries.*"}', "{{queue}}"),),
        ),
        Panel(
            "Under way, and room",
            "Near the room: run more couriers.",
            (
                ('sum(billhook_jobs_in_progress{queue="deliveries"})', "under way"),
                ('sum(billhook_job_capacity{queue="deliveries"})', "room"),
            ),
        ),
        Panel(
            "Deferred untried",
            "A breaker, a cap, a rate limit or an order.",
            rate("billhook_webhook_deliveries_deferred_total"),
            "cps",
        ),
        Panel(
            "Breakers that are open",
            "Many at once: is it our network?",
            (("sum by (instance) (billhook_webhook_open_breakers)", "{{instance}}"),),
        ),
        Panel(
            "Endpoints that fail, or are disabled",
            "Their merchants were told.",
            (("max(billhook_endpoints_failing)", "failing"), ("max(billhook_endpoints_disabled)", "disabled")),
        ),
        Panel(
            "Held for disabled endpoints",
            "Replay once they are back.",
            (("max(billhook_deliveries_held)", "held"),),
        ),
        Panel(
            "New connections an attempt",
            "Near 1: they are not reused.",
            (
                (
                    "sum(rate(billhook_webhook_connections_total[$__rate_interval]))"
                    " / sum(rate(billhook_webhook_deliveries_total[$__rate_interval]))",
                    "connections",
                ),
            ),
        ),
    ),
)

WORKERS: Final = Dashboard(
    "workers",
    "billhook: processes",
    (
        Panel(
            "Restarts", "In the last hour.", (("sum by (job) (changes(process_start_time_seconds[1h]))", "{{job}}"),)
        ),
        Panel("Memory", "Resident.", (("sum by (job, instance) (process_resident_memory_bytes)", "{{job}}"),), "bytes"),
        Panel("Processor", "Cores.", rate("process_cpu_seconds_total", "job", "instance")),
        Panel(
            "Open files",
            "Of the limit.",
            (("max by (job, instance) (process_open_fds / process_max_fds)", "{{job}}"),),
            "percentunit",
        ),
        Panel(
            "Time of garbage collection",
            "Beyond 1 %: tell us.",
            rate("billhook_gc_seconds_total", "job"),
            "percentunit",
        ),
        Panel(
            "Connections to the database",
            "Of those it may have.",
            (
                (
                    'max by (job, instance, pool) (billhook_database_pool_connections{state="in_use"})'
                    " / max by (job, instance, pool) (billhook_database_pool_limit)",
                    "{{job}}, {{pool}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Waiting for the database",
            "For a connection, and on SQLite for the turn to write.",
            quantiles("billhook_database_wait_seconds", 0.99, by="job"),
            "s",
        ),
        Panel(
            "Transactions refused or broken off",
            "Look at the database.",
            rate("billhook_store_errors_total", "job"),
            "cps",
        ),
        Panel(
            "Settled too late",
            "`stale`: a lease is shorter than its work.",
            rate("billhook_jobs_finished_total", "queue", where='{outcome="stale"}'),
            "cps",
        ),
        Panel(
            "Clocks",
            "By how much the database's is ahead; below nothing, behind.",
            (("billhook_database_clock_skew_seconds", "{{job}}"),),
            "s",
            signed=True,
        ),
        Panel("Connections of clients", "Of ingress and desk.", (("billhook_http_connections_open", "{{job}}"),)),
        Panel("Requests cut", "Slow, or too many.", rate("billhook_http_requests_cut_total", "reason"), "reqps"),
        Panel(
            "Rings that were not taken",
            "Look at Redis.",
            (("sum(rate(billhook_ring_send_failures_total[$__rate_interval])) or vector(0)", "rings"),),
            "cps",
        ),
        Panel(
            "Versions",
            "Several at once: a release is under way.",
            (("count by (version, schema) (billhook_build_info)", "{{version}}, schema {{schema}}"),),
        ),
    ),
)

MONEY: Final = Dashboard(
    "money",
    "billhook: money",
    (
        Panel(
            "Documents",
            "`failed`: the reason is on the row.",
            rate("billhook_documents_rendered_total", "outcome"),
            "cps",
        ),
        Panel(
            "Mails",
            "By how they ended.",
            rate("billhook_jobs_finished_total", "outcome", where='{queue="mails"}'),
            "cps",
        ),
        Panel("Dunning cases", "Not over, by stage.", (("max by (stage) (billhook_dunning_cases)", "{{stage}}"),)),
        Panel(
            "What happened to dunning cases",
            "In the last 24 hours, by cause. Many declined for good: ask for other cards.",
            (("max by (cause) (billhook_dunning_transitions)", "{{cause}}"),),
        ),
        Panel(
            "Cases that ended in 24 hours",
            "`recovered` beside `exhausted`.",
            (("max by (stage) (billhook_dunning_ended_cases)", "{{stage}}"),),
        ),
        Panel(
            "Recovered in 24 hours",
            "In each currency's main unit.",
            (("max by (currency) (billhook_dunning_recovered_amount) or on () vector(0)", "{{currency}}"),),
        ),
        Panel(
            "Payment attempts",
            "`unknown`: the provider does not answer.",
            rate("billhook_payment_attempts_total", "status"),
            "cps",
        ),
        Panel(
            "Findings",
            "Differences that nobody repaired or accepted.",
            (("max by (finding_class) (billhook_reconciliation_findings_open)", "{{finding_class}}"),),
        ),
        Panel(
            "Since each source was compared",
            "Every hour is right.",
            (("max by (source) (billhook_reconciliation_age_seconds)", "{{source}}"),),
            "s",
        ),
        Panel(
            "Comparisons that ended",
            "`incomplete`: the report says what was left out.",
            rate("billhook_reconciliation_runs_total", "outcome"),
            "cps",
        ),
        Panel(
            "Objects and events compared",
            "",
            rate("billhook_reconciliation_compared_total"),
            "cps",
        ),
    ),
)

DASHBOARDS: Final = (OVERVIEW, QUEUES, WEBHOOKS, WORKERS, MONEY)


def written(dashboard: Dashboard) -> str:
    """As Grafana reads it."""
    content = {
        "uid": f"billhook-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["billhook"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["billhook"], "title": "billhook", "asDropdown": True}],
        "templating": {"list": [_QUEUE] if dashboard.by_queue else []},
        "panels": list(_laid_out(dashboard.panels)),
    }
    return json.dumps(content, indent=1) + "\n"


_QUEUE: Final = {
    "name": "queue",
    "label": "Queue",
    "type": "query",
    "datasource": SOURCE,
    "query": "label_values(billhook_queue_ready_jobs, queue)",
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": ["All"], "value": ["$__all"]},
}


def _laid_out(panels: Iterable[Panel]) -> Iterable[dict[str, Any]]:
    for number, panel in enumerate(panels):
        row, column = divmod(number, 24 // WIDTH)
        yield {
            "id": number + 1,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.about,
            "datasource": SOURCE,
            "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit} | ({} if panel.signed else {"min": 0}), "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
                | ({"format": "heatmap"} if panel.kind == "heatmap" else {})
                for place, (expression, legend) in enumerate(panel.queries)
            ],
        }


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (HERE / f"{dashboard.name}.json").write_text(written(dashboard))


if __name__ == "__main__":
    main()
