"""What a process exports: all that it measures, and nothing else."""

from __future__ import annotations

import re

from billhook.metrics import DECLARED, Metrics
from billhook.rules.source_labels import MOST_NAMED, source_labels


def test_a_process_exports_only_what_it_measures() -> None:
    relay, courier = Metrics(), Metrics()
    relay.swept_at.set(12)
    courier.deliveries.labels("2xx").inc()
    assert "sweeper_last_success" in relay.exported().decode()
    assert "billhook_webhook" not in relay.exported().decode()
    assert "sweeper_last_success" not in courier.exported().decode()


def test_counters_have_no_series_that_says_when_they_were_made() -> None:
    metrics = Metrics()
    metrics.accept_seconds.observe(1)
    metrics.jobs_claimed.labels("inbox").inc()
    assert "_created" not in metrics.exported().decode()


def test_every_metric_is_named_by_the_conventions_and_says_what_to_do() -> None:
    for declared in DECLARED:
        assert re.fullmatch(r"billhook_[a-z_]+", declared.name)
        assert (declared.kind == "counter") == declared.name.endswith("_total")
        assert declared.text.endswith((".", "?"))
        forbidden = ("id", "url", "merchant", "customer", "endpoint")
        assert not {label for label in declared.labels if label in forbidden}
    assert len({declared.name for declared in DECLARED}) == len(DECLARED)


def test_sources_are_told_apart_by_name_as_far_as_there_is_room() -> None:
    many = [(f"src_{number:03}", f"shop {number}") for number in range(MOST_NAMED + 5)]
    labels = source_labels(reversed(many))
    assert labels.of("src_000") == "shop 0"
    assert labels.of(f"src_{MOST_NAMED:03}") == "other"
    assert labels.of("src_unknown") == "other"
    assert len({labels.of(source_id) for source_id, _ in many}) == MOST_NAMED + 1
