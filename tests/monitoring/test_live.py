"""Dashboards and alerts beside a running billhook, which a real Prometheus scrapes.

Everything that they ask has an answer, and what they warn of makes them fire, and stop.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from consumers.lifecycle import event, life
from monitoring import causes
from monitoring.installation import Installation, until
from monitoring.prometheus import ROOT, RULES, Prometheus

from billhook.metrics import DECLARED
from billhook_testing.fake_stripe import FakeStripe

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
_SPEC = importlib.util.spec_from_file_location("dashboards", GRAFANA / "dashboards.py")
assert _SPEC is not None
assert _SPEC.loader is not None
dashboards: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["dashboards"] = dashboards  # where dataclasses look for it
_SPEC.loader.exec_module(dashboards)
NAME = re.compile(r"\b(?:billhook[_:][a-z0-9_:]*|process_[a-z_]+|up|ALERTS)\b(?!\s*=)")


def panels() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def known_names() -> set[str]:
    """What there can be: declared, recorded, or everybody's."""
    names = {rule["record"] for rule in rules() if "record" in rule} | {"up", "ALERTS"}
    for declared in DECLARED:
        parts = ("", "_bucket", "_sum", "_count") if declared.kind == "histogram" else ("",)
        names |= {declared.name + part for part in parts}
    return (
        names
        | {"process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
        | {
            "process_open_fds",
            "process_max_fds",
        }
    )


def test_dashboards_and_alerts_ask_only_for_what_there_is() -> None:
    asked = [*panels(), *((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules())]
    runbooks = [(path.name, code) for path in (ROOT / "docs/runbooks").iterdir() for code in spans(path.read_text())]
    known = known_names()
    unknown = {(where, name) for where, text in [*asked, *runbooks] for name in NAME.findall(text) if name not in known}
    assert not unknown


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def test_the_dashboards_are_what_their_code_writes() -> None:
    assert {path.stem for path in DASHBOARDS} == {dashboard.name for dashboard in dashboards.DASHBOARDS}
    for dashboard in dashboards.DASHBOARDS:
        fresh = (GRAFANA / "dashboards" / f"{dashboard.name}.json").read_text() == dashboards.written(dashboard)
        assert fresh, f"{dashboard.name}.json is old: run `make docs`"


def test_what_alerts_count_is_counted_from_zero(prometheus: Prometheus) -> None:
    """The first that happens would not be an increase of a series that begins with it."""
    for outcome in ("2xx", "5xx", "timeout"):
        prometheus.until(lambda: prometheus.query(f'billhook_webhook_deliveries_total{{outcome="{outcome}"}}'), outcome)  # noqa: B023
    for status in ("unknown", "succeeded"):
        prometheus.until(lambda: prometheus.query(f'billhook_payment_attempts_total{{status="{status}"}}'), status)  # noqa: B023
    prometheus.until(lambda: prometheus.query('billhook_ingress_requests_total{code="503"}'), "the door's")
    prometheus.until(lambda: prometheus.query("billhook_store_errors_total"), "the database's")
    for queue in ("deliveries", "documents", "dunning_cases", "payment_attempts"):
        prometheus.until(lambda: prometheus.query(f'billhook_job_wait_seconds_count{{queue="{queue}"}}'), queue)  # noqa: B023


def test_no_panel_is_empty_and_no_alert_fires_when_all_is_well(
    installation: Installation, prometheus: Prometheus
) -> None:
    for told in life():
        assert installation.post(told) == 200
    installation.say(3)
    prometheus.until(lambda: installation.count("documents", "ready") == 4, "the documents")
    prometheus.until(lambda: installation.count("deliveries", "due") == 0, "the deliveries")
    ready = 'sum(billhook_jobs_finished_total{queue="documents", outcome="ready"}) == 4'
    prometheus.until(lambda: prometheus.query(ready), "scraping")
    prometheus.until(lambda: prometheus.query("billhook:slo_errors:ratio_rate1h"), "recording")
    prometheus.until(lambda: not empty(prometheus), "an answer to every panel")
    for rule in rules():
        prometheus.query(rule["expr"])
    prometheus.until(lambda: not prometheus.firing(), "silence")


def empty(prometheus: Prometheus) -> list[str]:
    """Panels that show nothing. A rate takes two scrapes."""
    return [where for where, expression in panels() if not prometheus.query(asked_by_hand(expression))]


def asked_by_hand(expression: str) -> str:
    return expression.replace("$__rate_interval", "10s").replace("$queue", ".*")


WAITS_FOR_A_PERSON = {
    ("BillhookWebhooksFail", ""),
    ("BillhookEndpointsFailing", ""),
    ("BillhookDeadLetters", "inbox"),
    ("BillhookQueuePaused", "replays"),
    ("BillhookFindings", "status_mismatch"),
    ("BillhookEventsMissing", "missing_event"),
    ("BillhookRedisAway", "deliveries"),
    ("BillhookReconciliationOld", "asked"),
    ("BillhookWebhooksLate", ""),
    ("BillhookDocumentsLate", ""),
    ("BillhookDunningLate", ""),
    ("BillhookPaymentsUnknown", ""),
    ("BillhookClockSkew", "reconciler"),
    ("BillhookVersionsDiffer", ""),
    ("BillhookPoolExhausted", "desk"),
}
NOBODY_DELIVERS = {
    ("BillhookTargetGone", "courier"),
    ("BillhookTargetGone", "desk"),
    ("BillhookQueueNotWorked", "deliveries"),
    ("BillhookQueueLate", "deliveries"),
    ("BillhookLeasesExpired", "deliveries"),
}
NO_DATABASE = {
    ("BillhookDatabaseErrors", "bookkeeper"),
    ("BillhookIngressErrors", ""),
    ("BillhookLedgerNotMeasured", ""),
    ("BillhookSweepSilent", ""),
}


def test_no_alert_is_left_out_of_the_drill() -> None:
    drilled = {name for name, _ in WAITS_FOR_A_PERSON | NOBODY_DELIVERS | NO_DATABASE}
    assert drilled == {rule["alert"] for rule in rules() if "alert" in rule}


def test_a_drill(installation: Installation, prometheus: Prometheus, tmp_path: Path) -> None:
    with FakeStripe() as provider:
        others = causes.break_what_waits_for_a_person(installation)
        causes.draw_late(installation)
        causes.collect_late_without_an_answer(installation, provider)
        causes.run_an_older_version_by_a_fast_clock(installation, tmp_path)
        installation.queue.cut()
        with causes.somebody_locks_what_the_desk_reads(installation):
            prometheus.until_fired(WAITS_FOR_A_PERSON)
    installation.queue.open()
    installation.processes["reconciler"].start_anew()
    causes.mend_what_waits_for_a_person(installation, others)
    prometheus.until(lambda: not prometheus.firing(), "silence")

    for name in ("courier", "desk"):
        installation.processes[name].stop()
    causes.leave_work_in_hand(installation)
    prometheus.until_fired(NOBODY_DELIVERS)
    assert ("BillhookQueueNotWorked", "inbox") not in prometheus.firing()

    installation.database.cut()
    for number in range(6):
        assert installation.post(event(100 + number, "x.y", {}, 1)) == 503
    installation.processes["relay"].stop()
    installation.env.bell.look("inbox")  # a bookkeeper that nobody rings for asks nothing of the database
    prometheus.until_fired(NO_DATABASE)
    installation.database.open()
    for name in ("relay", "courier", "desk"):
        installation.processes[name].start()
    assert installation.post(event(100, "x.y", {}, 1)) == 200
    prometheus.until(lambda: not prometheus.firing(), "silence")

    with prometheus.standing_still():  # which changes nothing in billhook
        assert installation.post(event(110, "x.y", {}, 1)) == 200
        delivered = installation.count("deliveries", "delivered")
        installation.say(2)
        until(lambda: installation.count("deliveries", "delivered") >= delivered + 2)
        until(lambda: installation.count("inbox", "due") == 0)
        assert installation.ready() == set(installation.processes)
