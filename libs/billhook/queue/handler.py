"""What the consumer machinery is told of a queue: how its work is prepared, performed and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import sqlalchemy as sa

from billhook.rules.retry import Outcome
from billhook.store import work
from billhook.store.database import Tx

Rings = Mapping[str, Sequence[str]]
"""What to ring for after the commit: ids of rows that are due now, by bell."""


class Job(Protocol):
    """One piece of claimed work, with all that is needed to perform it."""

    @property
    def id(self) -> str: ...
    @property
    def merchant_id(self) -> str: ...
    @property
    def attempts(self) -> int:
        """Claims so far, this one included."""


J = TypeVar("J", bound=Job)
E = TypeVar("E")


class Handler(Protocol[J, E]):
    """What a service makes of its queue: `J` is a job, `E` what performing it brought for `effects` to write."""

    @property
    def table(self) -> sa.Table: ...
    @property
    def batch(self) -> int: ...
    @property
    def lease(self) -> timedelta:
        """How long work stays with a worker that gives no sign of life. It is renewed while a batch is being done."""

    @property
    def max_attempts(self) -> int: ...

    def prepare(self, tx: Tx, rows: Sequence[work.Row]) -> Sequence[J]:
        """Read what the claimed rows need. Runs in the transaction of the claim."""

    def perform(self, jobs: Sequence[J]) -> Sequence[tuple[J, Outcome, E]]:
        """Do the work outside of any transaction, and say how each job ended."""

    def effects(self, tx: Tx, results: Sequence[tuple[J, Outcome, E]], now: datetime) -> Rings:
        """Write the effects of results that are still ours, in the transaction that marks them."""

    # A handler may say more of a job for its line in the log, ids and figures only:
    # def about(self, job: J, brought: E) -> dict[str, Any]
