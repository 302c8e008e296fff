"""However late callers are, and however many processes they are in, no second has more calls than the limit."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.permits import MARGIN, Used, give_back, permits_of, planned_per_second, take

NOW = datetime(2026, 3, 1, 10, 0, 0, 137, tzinfo=UTC)
LASTS = timedelta(seconds=0.1)

LATENESS = st.lists(st.floats(0, 0.01) | st.floats(0, 0.3), min_size=1, max_size=8)
BLOCKS = st.lists(st.tuples(st.just(0.0) | st.floats(0, 0.6), st.integers(1, 40), LATENESS, st.booleans()), max_size=14)
"""Of one process after another: how long after the last it takes permits, how many, how late its calls come, and
whether it gives them back before the next comes, or never."""


@given(st.sampled_from([0.5, 1, 2, 2.5, 7, 20, 100]), BLOCKS, st.lists(st.floats(0, MARGIN), min_size=1, max_size=5))
def test_no_second_has_more_calls_than_the_limit(
    limit: float, blocks: list[tuple[float, int, list[float], bool]], ways: list[float]
) -> None:
    known: list[datetime] = []
    now, called = NOW, []
    for wait, count, lateness, returns in blocks:
        now += timedelta(seconds=wait)
        taken, known = take(known, limit, count, now, within=timedelta(seconds=1), lasts=LASTS)
        used: list[Used] = []
        for place, permit in enumerate(taken):
            at = permit.start + timedelta(seconds=lateness[place % len(lateness)])
            if at > permit.until:
                used.append((permit, None))  # it was too late
            else:
                called.append((at - NOW).total_seconds() + ways[place % len(ways)])
                used.append((permit, at))
        if returns:
            known = give_back(known, used, limit)
        assert len(known) == permits_of(limit)
    called.sort()
    busiest = max((bisect_left(called, at + 1.0) - place for place, at in enumerate(called)), default=0)
    assert busiest <= permits_of(limit)


def test_one_who_never_waits_gets_nearly_all_of_the_limit() -> None:
    known: list[datetime] = []
    now, calls = NOW, 0
    while now < NOW + timedelta(seconds=60):
        [permit], known = take(known, 100, 1, now, within=timedelta(seconds=2), lasts=LASTS)
        now, calls = max(now, permit.start), calls + 1
        known = give_back(known, [(permit, now)], 100)
    assert 60 * 98.5 < calls <= 61 * 100
    assert planned_per_second(100) > 98.5


def test_a_limit_that_was_changed_and_a_clock_that_was_ahead() -> None:
    taken, known = take([], 10, 10, NOW, within=timedelta(seconds=2), lasts=LASTS)
    # With fewer permits, those stay that are good last: nothing is given twice.
    again, _ = take(known, 5, 9, NOW, within=timedelta(seconds=9), lasts=LASTS)
    assert len(again) == 5
    assert again[0].start > taken[4].start + timedelta(seconds=1)
    more, _ = take(known, 12, 99, NOW, within=timedelta(0), lasts=LASTS)
    assert [permit.start for permit in more] == [NOW]
    _, ahead = take([], 2, 2, NOW + timedelta(days=400), within=timedelta(seconds=2), lasts=LASTS)
    assert take(ahead, 2, 1, NOW, within=timedelta(0), lasts=LASTS)[0][0].start == NOW
