"""The account of failed payments notices every one that was lost, and every one that was taken twice."""

from __future__ import annotations

import pytest

from tests.chaos.debts import Debt, settle

GOOD = Debt("in_1", 1, ["recovered"], ["failed", "succeeded"])


def test_what_was_charged_once_balances() -> None:
    assert settle([GOOD, Debt("in_2", 1, ["recovered"], ["succeeded"])]) == ([], [])


@pytest.mark.parametrize(
    ("debt", "lost", "doubled"),
    [
        (Debt("in_1", 2, ["recovered"], ["succeeded"]), [], ["in_1: charged 2 times"]),
        (Debt("in_1", 1, ["recovered"], ["succeeded"] * 2), [], ["in_1: 2 attempts succeeded"]),
        (Debt("in_1", 1, ["grace"], ["unknown"]), ["in_1: its case is grace"], []),
        (Debt("in_1", 0, ["recovered"], ["failed"]), ["in_1: never charged; its attempts: failed"], []),
        (Debt("in_1", 0, [], []), ["in_1: never charged; its attempts: none", "in_1: its case is missing"], []),
    ],
)
def test_what_is_amiss_is_noticed(debt: Debt, lost: list[str], doubled: list[str]) -> None:
    assert settle([GOOD, debt]) == (lost, doubled)
