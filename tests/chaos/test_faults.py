"""The schedule comes from its seed alone."""

from __future__ import annotations

from itertools import pairwise

from tests.chaos.faults import FAULTS, Strike, schedule

ALL = [fault for faults in FAULTS.values() for fault in faults]


def _schedule(seed: int) -> list[Strike]:
    return schedule(ALL, 90, seed, random_kills=4, quiet=3)


def _shown(strikes: list[Strike]) -> list[tuple[float, str]]:
    return [(strike.at, strike.fault.name) for strike in strikes]


def test_one_seed_is_one_schedule() -> None:
    assert _shown(_schedule(1)) == _shown(_schedule(1))
    assert _shown(_schedule(1)) != _shown(_schedule(2))


def test_every_fault_strikes_once_and_none_in_the_quiet_times() -> None:
    for seed in range(20):
        strikes = _schedule(seed)
        assert sorted(s.fault.name for s in strikes if s.waits) == sorted(fault.name for fault in ALL)
        assert all(3 <= s.at <= s.at + s.fault.seconds <= 90 for s in strikes)


def test_faults_of_the_queue_do_not_overlap() -> None:
    for seed in range(20):
        in_turn = [s for s in _schedule(seed) if s.waits]
        assert all(a.at + a.fault.seconds < b.at for a, b in pairwise(in_turn))
