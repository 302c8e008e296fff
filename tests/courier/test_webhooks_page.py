"""docs/webhooks.md is for those who receive webhooks: its figures are the code's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from billhook.outlets.webhooks.exchange import BODY_LIMIT
from billhook.rules import breaker, delivery, endpoint_health, endpoint_settings
from billhook.runtime.settings import Settings
from billhook.store.endpoints import MOST_PREVIOUS_SECRETS
from services.courier.delivery import Delivery
from services.desk.routes.publishing import LARGEST_BATCH

PAGE = " ".join((Path(__file__).resolve().parents[2] / "docs/webhooks.md").read_text("utf-8").split())
KIB = 1024

SAYS = [
    ("the last byte of the answer, has 15 seconds", delivery.DEADLINE_SECONDS, 15),
    (
        "(an endpoint may be set to 1 to 30)",
        (endpoint_settings.SHORTEST_TIMEOUT_SECONDS, delivery.LONGEST_TIMEOUT_SECONDS),
        (1, 30),
    ),
    ("is honoured, up to 12 hours", delivery.RETRY_AFTER_LIMIT_SECONDS, 12 * 3600),
    ("| 429, 502, 503, 504 |", delivery.PATIENT, (429, 502, 503, 504)),
    ("64 KiB of an answer are read", BODY_LIMIT, 64 * KIB),
    ("ten attempts in all", len(delivery.SCHEDULE_SECONDS) + 1, 10),
    (
        "| after the one before | | 5 s | 5 min | 30 min | 2 h | 5 h | 10 h | 14 h | 20 h | 24 h |",
        delivery.SCHEDULE_SECONDS,
        (5, 300, 1800, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24))),
    ),
    ("(up to 20 waits)", delivery.LONGEST_SCHEDULE, 20),
    ("is left alone after five failures in a row", breaker.TRIP, 5),
    ("probes every 5 s for a minute", (breaker.OPEN_SECONDS, breaker.PATIENT_AFTER), (5, 12)),
    ("10 s, 20 s … 5 min", breaker.OPEN_SECONDS_LIMIT, 300),
    ("three at most, one where `max_in_flight` is set", breaker.MOST_PROBES, 3),
    ("under the same `webhook-id`, after 8 s", Delivery.lease, timedelta(seconds=8)),
    ("**An endpoint that fails for five days**", endpoint_health.DISABLED_AFTER, timedelta(days=5)),
    (
        "after twelve hours, after two and a half days and when it happens",
        (endpoint_health.SPREAD, endpoint_health.HALF_TIME),
        (timedelta(hours=12), timedelta(days=2.5)),
    ),
    ("the window, 128 at most in each process", breaker.LARGEST_WINDOW, 128),
    (
        "for 24 hours or as long as `overlap_seconds` says (0 to 7 days",
        (endpoint_settings.OVERLAP_SECONDS, endpoint_settings.LONGEST_OVERLAP_SECONDS),
        (24 * 3600, 7 * 24 * 3600),
    ),
    ("Ten older secrets may sign", MOST_PREVIOUS_SECRETS, 10),
    ("A merchant may have 50 endpoints", Settings().endpoints_per_merchant, 50),
    ("Publications that come at the same time share one commit (up to 200)", LARGEST_BATCH, 200),
    ("A body may have 64 KiB", Settings().message_limit_kib, 64),
    (
        "Bodies are kept for 90 days, attempts for 30",
        (Settings().keep_messages_days, Settings().keep_attempts_days),
        (90, 30),
    ),
]


@pytest.mark.parametrize("says, is_so, said", SAYS, ids=[says[:40] for says, *_ in SAYS])
def test_what_the_page_says_in_figures_is_so(says: str, is_so: object, said: object) -> None:
    assert says in PAGE
    assert is_so == said
