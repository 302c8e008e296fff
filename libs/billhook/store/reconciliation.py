"""Reconciliation: runs, which go through a provider's lists and keep their place, and what they found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.reconcile import OPEN, FindingState
from billhook.store.bulk import among
from billhook.store.database import Tx, insert_into
from billhook.store.inbox import inbox
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index
from billhook.store.work import DUE, due_index, work_columns

_A_DAY: Final = timedelta(days=1)
_DONE = sa.text("state = 'done'")
IS_OPEN = sa.text("state IN ('confirmed', 'reopened')")
"""Of a finding: the condition of its index, in the index's own words."""

reconciliation_runs = sa.Table(
    "reconciliation_runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("slot", sa.Text, nullable=False),  # what it was made for: a scheduled hour, or its own id
    sa.Column("since", Instant, nullable=False),
    sa.Column("until", Instant, nullable=False),
    sa.Column("lists", sa.JSON, nullable=False),  # what is gone through, in this order
    sa.Column("place", sa.Integer, nullable=False, server_default="0"),  # in `lists`; behind them is the second look
    sa.Column(
        "account", sa.Text, nullable=False, server_default=sa.text("''")
    ),  # connected, whose lists it goes through now
    sa.Column("accounts", sa.Integer, nullable=False, server_default="0"),  # of such that it has come to
    sa.Column("cursor", sa.Text),  # of the list at `place`
    sa.Column("window_end", Instant),  # down to where that list was compared
    sa.Column("looks", sa.Integer, nullable=False, server_default="0"),  # second looks so far
    sa.Column("mode", sa.Text, nullable=False, server_default="compare"),  # or import: fills the book
    sa.Column("tells", sa.Boolean, nullable=False, server_default=sa.true()),  # merchants of what it changed
    sa.Column("repairs", sa.Boolean, nullable=False),  # False: observes only
    sa.Column("compared", sa.Integer, nullable=False, server_default="0"),
    sa.Column("confirmed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("repaired", sa.Integer, nullable=False, server_default="0"),
    sa.Column("notes", sa.JSON, nullable=False),  # what could not be compared, and why
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    *work_columns(),
    due_index("reconciliation_runs"),
    # Several reconcilers keep one schedule: a slot is taken once.
    sa.UniqueConstraint("source_id", "slot"),
    sa.Index("ix_reconciliation_runs_merchant_id", "merchant_id", "id"),
    partial_index("ix_reconciliation_runs_done", "source_id", "finished_at", where=_DONE),
)

reconciliation_findings = sa.Table(
    "reconciliation_findings",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False, server_default=sa.text("''")),  # connected, whose object it is
    sa.Column("kind", sa.Text, nullable=False),  # of the object, or `event`
    sa.Column("external_id", sa.Text, nullable=False),
    sa.Column("finding_class", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("differences", sa.JSON, nullable=False),  # field → what the book says, what the provider says
    sa.Column("seen", sa.JSON, nullable=False),  # the differences at the last look, confirmed or not
    sa.Column("local_version", sa.Text, nullable=False),  # of the book's object at the first look
    sa.Column("amount", sa.BigInteger),  # at stake
    sa.Column("currency", sa.Text),
    sa.Column("run_id", sa.Text, nullable=False),  # the last that confirmed it
    sa.Column("suspected_by", sa.Text),  # the run that is to look at it again
    sa.Column("first_seen_at", Instant, nullable=False),
    sa.Column("last_seen_at", Instant, nullable=False),
    sa.Column("decided_by", sa.Text),  # who repaired or accepted it
    sa.Column("decided_at", Instant),
    # One finding an object: a graver class takes the place of a lighter one.
    sa.UniqueConstraint("source_id", "account", "kind", "external_id"),
    sa.Index("ix_reconciliation_findings_merchant_id", "merchant_id", "id"),
    sa.Index("ix_reconciliation_findings_suspected_by", "suspected_by"),
    partial_index("ix_reconciliation_findings_open", "finding_class", where=IS_OPEN),
)

COMPARE = "compare"
IMPORT = "import"
DONE = "done"
INCOMPLETE = "incomplete"
"""A run that ended, and could not compare everything: its notes say what."""
SUSPECTED: FindingState = "suspected"
MOST_ACCOUNTS: Final = 1000
"""Connected accounts that one run compares. Where there are more, the next of the same schedule goes on behind them."""
SCHEDULE: Final = "schedule"
"""Who makes the runs that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Run:
    id: str
    merchant_id: str
    source_id: str
    slot: str
    since: datetime
    until: datetime
    lists: list[str]
    place: int
    account: str
    accounts: int
    cursor: str | None
    window_end: datetime | None
    looks: int
    mode: str
    tells: bool
    repairs: bool
    compared: int
    confirmed: int
    repaired: int
    notes: list[str]
    created_by: str
    created_at: datetime
    state: str
    due_at: datetime
    attempts: int
    token: str | None
    last_error: str | None
    finished_at: datetime | None

    @property
    def list_name(self) -> str | None:
        """What it goes through now; None: it looks again at what it suspects."""
        return self.lists[self.place] if self.place < len(self.lists) else None

    @property
    def at(self) -> str:
        """The same for people."""
        name = self.list_name or "second look"
        return f"{name} of {self.account}" if self.account and self.list_name else name

    @property
    def scheduled(self) -> bool:
        return self.created_by == SCHEDULE

    @property
    def routine(self) -> bool:
        """One of many a day: whoever listens is told of it only when it found something."""
        return self.scheduled and self.until - self.since < _A_DAY

    @property
    def progress(self) -> float:
        """How much of its lists is behind it, 0…1: of the list at hand, the time that was compared."""
        if self.state != DUE or not self.lists:
            return 1.0
        at_hand = (self.until - self.window_end) / (self.until - self.since) if self.window_end else 0.0
        return min((self.place + max(at_hand, 0.0)) / (len(self.lists) + 1), 1.0)

    def shown(self) -> dict[str, Any]:
        """As people see it."""
        return {
            "id": self.id,
            "merchant_id": self.merchant_id,
            "source_id": self.source_id,
            "mode": self.mode,
            "state": "running" if self.state == DUE else self.state,
            "progress": round(self.progress, 4),
            "at": self.at,
            "since": self.since,
            "until": self.until,
            "repairs": self.repairs,
            "compared": self.compared,
            "confirmed": self.confirmed,
            "repaired": self.repaired,
            "notes": self.notes,
            "created_by": self.created_by,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    id: str
    merchant_id: str
    source_id: str
    account: str = ""
    """The connected account whose object it is; empty for the source's own."""
    kind: str
    external_id: str
    finding_class: str
    state: str
    differences: dict[str, Any]
    seen: dict[str, Any]
    local_version: str
    amount: int | None
    currency: str | None
    run_id: str
    suspected_by: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    decided_by: str | None
    decided_at: datetime | None

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind, self.external_id)

    def shown(self) -> dict[str, Any]:
        """As people see it."""
        hidden = ("seen", "local_version", "suspected_by")
        return {name: value for name, value in vars(self).items() if name not in hidden}


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run to make. `slot` None: one by hand, as often as it is asked for."""

    merchant_id: str
    source_id: str
    since: datetime
    until: datetime
    lists: Sequence[str]
    repairs: bool
    by: str
    slot: str | None = None
    mode: str = COMPARE
    tells: bool = True


def add_run(tx: Tx, new: NewRun, now: datetime) -> str | None:
    """Make a run that is due now; returns its id, or None where its slot is taken."""
    run_id = new_id("rec")
    row = {
        "id": run_id,
        "merchant_id": new.merchant_id,
        "source_id": new.source_id,
        "slot": new.slot or run_id,
        "since": new.since,
        "until": new.until,
        "lists": list(new.lists),
        "mode": new.mode,
        "tells": new.tells,
        "repairs": new.repairs,
        "notes": [],
        "created_by": new.by,
        "created_at": now,
        "due_at": now,
    }
    made = insert_into(tx, reconciliation_runs).values(row).on_conflict_do_nothing().returning(reconciliation_runs.c.id)
    return tx.execute(made).scalar()


def get_run(tx: Tx, run_id: str, *, merchant_id: str | None = None) -> Run | None:
    query = sa.select(reconciliation_runs).where(reconciliation_runs.c.id == run_id)
    if merchant_id is not None:
        query = query.where(reconciliation_runs.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Run(**row) if row else None


def list_runs(tx: Tx, *, merchant_id: str | None = None, before: str | None = None, limit: int = 50) -> list[Run]:
    """Newest first."""
    query = sa.select(reconciliation_runs).order_by(reconciliation_runs.c.id.desc()).limit(limit)
    if merchant_id is not None:
        query = query.where(reconciliation_runs.c.merchant_id == merchant_id)
    if before is not None:
        query = query.where(reconciliation_runs.c.id < before)
    return [Run(**row) for row in tx.execute(query).mappings()]


def ended_runs(tx: Tx, source_id: str, by: str, *, limit: int) -> list[Run]:
    """The last runs that somebody made and that are over, newest first."""
    c = reconciliation_runs.c
    query = sa.select(reconciliation_runs).where(
        c.source_id == source_id, c.created_by == by, c.state.in_((DONE, INCOMPLETE))
    )
    return [Run(**row) for row in tx.execute(query.order_by(c.id.desc()).limit(limit)).mappings()]


def went_as_far_as(tx: Tx, run: Run) -> str:
    """The last connected account that the run before it of the same slot came to (hourly, nightly…), where that left
    others out; else nothing."""
    c = reconciliation_runs.c
    name = run.slot.partition(" ")[0]
    query = sa.select(c.account, c.accounts).where(
        c.source_id == run.source_id, c.slot.startswith(f"{name} ", autoescape=True), c.id < run.id
    )
    before = tx.execute(query.order_by(c.id.desc()).limit(1)).first()
    return "" if before is None or before.accounts < MOST_ACCOUNTS else str(before.account)


def change_run(tx: Tx, run_id: str, **values: Any) -> None:
    """Go on. A step that got on wipes out the failures before it."""
    tx.execute(sa.update(reconciliation_runs).where(reconciliation_runs.c.id == run_id).values(attempts=1, **values))


def get_finding(tx: Tx, finding_id: str, *, merchant_id: str | None = None, lock: bool = False) -> Finding | None:
    query = sa.select(reconciliation_findings).where(reconciliation_findings.c.id == finding_id)
    if lock:
        query = query.with_for_update()
    if merchant_id is not None:
        query = query.where(reconciliation_findings.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Finding(**row) if row else None


def list_findings(
    tx: Tx,
    *,
    merchant_id: str | None = None,
    states: Collection[str] = OPEN,
    before: str | None = None,
    limit: int = 50,
) -> list[Finding]:
    """Newest first; the open ones unless said otherwise."""
    query = sa.select(reconciliation_findings).order_by(reconciliation_findings.c.id.desc()).limit(limit)
    query = query.where(reconciliation_findings.c.state.in_(states))
    if merchant_id is not None:
        query = query.where(reconciliation_findings.c.merchant_id == merchant_id)
    if before is not None:
        query = query.where(reconciliation_findings.c.id < before)
    return [Finding(**row) for row in tx.execute(query).mappings()]


def findings_of(
    tx: Tx, source_id: str, account: str, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Finding]:
    """What is known of these objects (kind, external id) of an account."""
    c = reconciliation_findings.c
    query = sa.select(reconciliation_findings).where(
        c.source_id == source_id,
        c.account == account,
        among(tx, c.external_id, {external_id for _, external_id in keys}),
    )
    found = [Finding(**row) for row in tx.execute(query).mappings()] if keys else []
    return {finding.key: finding for finding in found if finding.key in keys}


def open_findings(
    tx: Tx, merchant_id: str, source_id: str, kinds: Collection[str], *, limit: int = 1000
) -> list[Finding]:
    """Those of a source that somebody has still to see to."""
    c = reconciliation_findings.c
    query = sa.select(reconciliation_findings).where(
        c.merchant_id == merchant_id, c.source_id == source_id, c.kind.in_(kinds), c.state.in_(OPEN)
    )
    return [Finding(**row) for row in tx.execute(query.order_by(c.id).limit(limit)).mappings()]


def suspicions(tx: Tx, run_id: str, *, limit: int) -> list[Finding]:
    """What a run has still to look at again."""
    c = reconciliation_findings.c
    query = sa.select(reconciliation_findings).where(c.suspected_by == run_id)
    return [Finding(**row) for row in tx.execute(query.order_by(c.id).limit(limit)).mappings()]


def add_finding(tx: Tx, finding: Finding) -> None:
    tx.execute(reconciliation_findings.insert().values(**vars(finding)))


def change_finding(tx: Tx, finding_id: str, **values: Any) -> None:
    tx.execute(sa.update(reconciliation_findings).where(reconciliation_findings.c.id == finding_id).values(**values))


def delete_finding(tx: Tx, finding_id: str) -> None:
    """Forget a suspicion that was none."""
    tx.execute(sa.delete(reconciliation_findings).where(reconciliation_findings.c.id == finding_id))


def events_known(tx: Tx, source_id: str, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Of events (account, external id) that are in the inbox: their id there and their state."""
    c = inbox.c
    query = sa.select(c.account, c.external_id, c.id, c.state).where(
        c.source_id == source_id, among(tx, c.external_id, {external_id for _, external_id in keys})
    )
    found = {(row[0], row[1]): (row[2], row[3]) for row in tx.execute(query)} if keys else {}
    return {key: known for key, known in found.items() if key in keys}


def events_waiting(tx: Tx, source_id: str, before: datetime) -> bool:
    """Whether events of the source that came before then are still to be processed."""
    c = inbox.c
    waiting = sa.select(c.id).where(c.state == DUE, c.source_id == source_id, c.received_at < before).limit(1)
    return tx.execute(waiting).first() is not None


def events_due(tx: Tx, source_id: str, *, limit: int) -> int:
    """How many events of the source are still to be processed, up to `limit`."""
    c = inbox.c
    waiting = sa.select(c.id).where(c.state == DUE, c.source_id == source_id).limit(limit).subquery()
    return int(tx.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one())
