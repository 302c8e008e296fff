"""The time, handed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Answers the current time, aware and UTC. Rules take the value; shells take the clock."""


def system_clock() -> datetime:
    return datetime.now(UTC)
