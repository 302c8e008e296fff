"""What relays measure of the ledger for Prometheus.

Each question is answered from an index that holds only what it asks for, and no count goes beyond `COUNT_LIMIT`:
measuring costs the same however long the history is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from billhook.rules.delivery import HELD
from billhook.rules.money import exponent
from billhook.rules.retry import REASON_CLASSES, REFUSED
from billhook.rules.source_labels import MOST_NAMED, source_labels
from billhook.store import work
from billhook.store.database import Tx
from billhook.store.dead_letters import dead_letters
from billhook.store.deliveries import deliveries
from billhook.store.dunning_cases import dunning_cases, dunning_steps
from billhook.store.endpoints import endpoints
from billhook.store.fitness import revision_in
from billhook.store.queue_pauses import paused
from billhook.store.queues import BELLS
from billhook.store.reconciliation import DONE, IS_OPEN, reconciliation_findings, reconciliation_runs
from billhook.store.schema import id_at
from billhook.store.sources import sources
from billhook.store.work import DUE, Backlog

MOST_LETTERS = 10_000
"""Their reasons are read, which are texts."""

RECENT = timedelta(hours=24)


@dataclass(frozen=True)
class Measured:
    """The ledger at one moment."""

    backlogs: dict[str, Backlog]
    """By bell: a queue, or a lane of one."""
    paused: dict[str, bool]
    """By bell: whether a person has stopped it."""
    dead_letters: dict[tuple[str, str], int]
    """Open ones, by queue and class of reason."""
    held_deliveries: int
    failing_endpoints: int
    disabled_endpoints: int
    dunning_cases: dict[str, int]
    """Those that are not over, by stage."""
    dunning_steps: dict[str, int]
    """Lately, by cause."""
    dunning_ended: dict[str, int]
    """Lately, by stage."""
    recovered: dict[str, float]
    """Lately, by currency, in its main unit."""
    findings: dict[str, int]
    """Open ones, by class."""
    reconciliation_ages: dict[str, float]
    """Seconds since the last complete comparison, by the label of the source."""
    schema: int


def measure(tx: Tx, now: datetime) -> Measured:
    ended, recovered = _ended_cases(tx, now - RECENT)
    stopped = paused(tx)
    return Measured(
        backlogs=dict(zip(BELLS, work.backlogs(tx, _LANES, now=now), strict=True)),
        paused={name: bell.table.name in stopped for name, bell in BELLS.items()},
        dead_letters=_dead_letters(tx),
        held_deliveries=_count(tx, deliveries, deliveries.c.state == HELD),
        failing_endpoints=_count(tx, endpoints, *_FAILING),
        disabled_endpoints=_count(tx, endpoints, *_DISABLED),
        dunning_cases=_by(tx, dunning_cases.c.stage, dunning_cases.c.state == DUE),
        dunning_steps=_by(tx, dunning_steps.c.cause, dunning_steps.c.id >= id_at("dstep", now - RECENT)),
        dunning_ended=ended,
        recovered=recovered,
        findings=_by(tx, reconciliation_findings.c.finding_class, IS_OPEN),
        reconciliation_ages=_reconciliation_ages(tx, now),
        schema=int(revision_in(tx) or 0),
    )


_LANES = [(bell.table, bell.only) for bell in BELLS.values()]
_DISABLED = (endpoints.c.disabled_at.is_not(None), endpoints.c.deleted_at.is_(None))
_FAILING = (endpoints.c.failing_since.is_not(None), endpoints.c.disabled_at.is_(None), endpoints.c.deleted_at.is_(None))


def _count(tx: Tx, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
    rows = sa.select(sa.literal(1)).select_from(table).where(*conditions).limit(work.COUNT_LIMIT)
    return int(tx.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one())


def _by(tx: Tx, column: sa.Column[Any], condition: sa.ColumnElement[bool] | sa.TextClause) -> dict[str, int]:
    rows = sa.select(column.label("value")).where(condition).limit(work.COUNT_LIMIT).subquery()
    counts = tx.execute(sa.select(rows.c.value, sa.func.count()).group_by(rows.c.value))
    return {row[0]: row[1] for row in counts}


def _dead_letters(tx: Tx) -> dict[tuple[str, str], int]:
    c = dead_letters.c
    rows = sa.select(c.queue, c.reason).where(c.resolved_at.is_(None)).limit(MOST_LETTERS).subquery()
    of_reason = sa.case(*((rows.c.reason.like(like), name) for name, like in REASON_CLASSES.items()), else_=REFUSED)
    query = sa.select(rows.c.queue, of_reason.label("of_reason"), sa.func.count()).group_by(sa.text("1, 2"))
    return {(queue, name): count for queue, name, count in tx.execute(query)}


def _ended_cases(tx: Tx, since: datetime) -> tuple[dict[str, int], dict[str, float]]:
    c = dunning_cases.c
    rows = sa.select(c.stage, c.currency, c.amount).where(c.closed_at >= since).limit(work.COUNT_LIMIT).subquery()
    query = sa.select(rows.c.stage, rows.c.currency, sa.func.count(), sa.func.sum(rows.c.amount))
    stages: dict[str, int] = {}
    recovered: dict[str, float] = {}
    for stage, currency, count, amount in tx.execute(query.group_by(rows.c.stage, rows.c.currency)):
        stages[stage] = stages.get(stage, 0) + count
        if stage == "recovered":
            recovered[currency] = float(amount) / 10 ** exponent(currency)
    return stages, recovered


def _reconciliation_ages(tx: Tx, now: datetime) -> dict[str, float]:
    """The oldest of those that share a label."""
    s, r = sources.c, reconciliation_runs.c
    last = sa.select(sa.func.max(r.finished_at)).where(r.source_id == s.id, r.state == DONE).scalar_subquery()
    known = [(row[0], row[1]) for row in tx.execute(sa.select(s.id, s.name).order_by(s.id).limit(MOST_NAMED))]
    labels = source_labels(known)
    compared = sa.select(s.id, s.created_at, last).where(s.api_key.is_not(None), s.disabled_at.is_(None))
    ages: dict[str, float] = {}
    for source_id, created_at, finished_at in tx.execute(compared.order_by(s.id).limit(MOST_NAMED)):
        label = labels.of(source_id)
        since = created_at if finished_at is None else finished_at
        ages[label] = max(ages.get(label, 0.0), (now - since).total_seconds())
    return ages
