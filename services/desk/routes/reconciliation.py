"""Reconciliation: runs that compare a source with its provider, and what they found."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.reconciliation import (
    accept_finding,
    begin_run,
    export_findings,
    repair_finding,
    run_of,
)
from billhook.actions.ringing import ring
from billhook.rules.reconcile import OPEN
from billhook.store import reconciliation
from billhook.store.database import Tx
from billhook.store.merchants import Caller
from billhook.store.own_invoices import OWN
from billhook.store.reconciliation import Finding, Run, reconciliation_runs
from billhook.store.sources import Source, get_source
from services.desk.authentication import owner_of
from services.desk.dependencies import (
    Body,
    CallerIn,
    EnvIn,
    Id,
    NewestFirst,
    Optional,
    Page,
    Text,
    Time,
    known_merchant,
    page_of,
)
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/reconciliation", tags=["reconciliation"])

USUAL_RANGE = timedelta(days=35)

State = Literal["suspected", "confirmed", "reopened", "repaired", "accepted"]


class NewRun(Body):
    source_id: Id | Literal["own"] = Field(description="`own`: what billhook itself made, for a merchant.")
    merchant_id: Id | None = Field(None, description="Of `own`, with the operator's key: whose.")
    since: Time | None = Field(None, description="What was made then or later. Left out: 35 days before.")
    until: Time | None = Field(None, description="And earlier than then. Left out: two minutes ago.")
    lists: list[Text] | None = Field(
        None, min_length=1, max_length=50, description="`events`, `customer`, `documents`… Left out: all there are."
    )
    observe: bool = Field(False, description="Find, and repair nothing.")


class RunShown(BaseModel):
    id: str
    merchant_id: str
    source_id: str
    mode: str = Field(description="compare, or import.")
    state: str = Field(description="running, done, incomplete (see `notes`) or dead.")
    progress: float = Field(description="How much of its lists it has gone through, 0 to 1.")
    at: str = Field(description="The list it goes through, or `second look`.")
    since: datetime
    until: datetime
    repairs: bool
    compared: int
    confirmed: int
    repaired: int
    notes: list[str] = Field(description="What could not be compared, and why.")
    created_by: str
    created_at: datetime
    finished_at: datetime | None


class FindingShown(BaseModel):
    id: str
    merchant_id: str
    source_id: str
    account: str = Field(description="The connected account whose object it is; empty for the source's own.")
    kind: str = Field(description="Of the object, or `event`.")
    external_id: str
    finding_class: str
    state: str
    differences: dict[str, list[Any]] = Field(description="Field: what the book says, and what the provider says.")
    amount: int | None = Field(description="At stake, in minor units.")
    currency: str | None
    run_id: str = Field(description="The run that confirmed it last.")
    first_seen_at: datetime
    last_seen_at: datetime
    decided_by: str | None = Field(description="Who repaired or accepted it.")
    decided_at: datetime | None


class FindingQuery(NewestFirst):
    state: list[State] | Optional = Field(None, max_length=5, description="Left out: what is open.")


class FindingsFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    merchant_id: Id | Optional = Field(None, description="With the operator's key: only this merchant's.")
    state: list[State] | Optional = Field(None, max_length=5, description="Left out: what is open.")

    def visible_to(self, caller: Caller) -> str | None:
        """The merchant to show; None is all of them, for the operator alone."""
        if caller.merchant_id is not None and self.merchant_id not in (None, caller.merchant_id):
            raise not_found("merchant")
        return caller.merchant_id or self.merchant_id


def _run(tx: Tx, run_id: str, caller: Caller) -> Run:
    found = reconciliation.get_run(tx, run_id, merchant_id=caller.merchant_id)
    if found is None:
        raise not_found("run")
    return found


def _finding(tx: Tx, finding_id: str, caller: Caller) -> Finding:
    found = reconciliation.get_finding(tx, finding_id, merchant_id=caller.merchant_id)
    if found is None:
        raise not_found("finding")
    return found


@router.post("/runs", status_code=201)
def start_run(env: EnvIn, caller: CallerIn, new: NewRun) -> RunShown:
    """Start a run. It goes on by itself, a page at a time."""
    now = env.clock()
    since, by = new.since or now - USUAL_RANGE, caller.key_id
    with env.database.begin() as tx:
        whose: Source | str | None
        if new.source_id == OWN:
            whose = known_merchant(tx, owner_of(caller, new.merchant_id))
        else:
            whose = get_source(tx, new.source_id, merchant_id=caller.merchant_id)
        if whose is None:
            raise not_found("source")
        made = run_of(whose, since, now, by=by, until=new.until, lists=new.lists, repairs=not new.observe)
        run_id = begin_run(tx, made, now)
        started = _run(tx, run_id, caller)
    ring(env, {reconciliation_runs.name: [run_id]})
    return RunShown(**started.shown())


@router.get("/runs")
def list_runs(env: EnvIn, caller: CallerIn, query: Annotated[NewestFirst, Query()]) -> Page[RunShown]:
    """The newest first."""
    with env.database.read() as tx:
        found = reconciliation.list_runs(
            tx, merchant_id=query.visible_to(caller), before=query.before, limit=query.limit + 1
        )
    return page_of(found, query.limit, lambda run: RunShown(**run.shown()), lambda run: run.id)


@router.get("/runs/{run_id}")
def get_run(env: EnvIn, caller: CallerIn, run_id: Id) -> RunShown:
    with env.database.read() as tx:
        return RunShown(**_run(tx, run_id, caller).shown())


@router.get("/findings")
def list_findings(env: EnvIn, caller: CallerIn, query: Annotated[FindingQuery, Query()]) -> Page[FindingShown]:
    """The newest first."""
    with env.database.read() as tx:
        found = reconciliation.list_findings(
            tx,
            merchant_id=query.visible_to(caller),
            states=query.state or OPEN,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, lambda one: FindingShown(**one.shown()), lambda one: one.id)


@router.get(
    "/findings.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def export_findings_csv(env: EnvIn, caller: CallerIn, query: Annotated[FindingsFile, Query()]) -> StreamingResponse:
    """All findings (the open ones, if nothing is said), for a spreadsheet. Amounts are in minor units."""
    lines = export_findings(env.database, query.visible_to(caller), query.state or OPEN, "csv")
    return StreamingResponse(lines, media_type="text/csv")


@router.get(
    "/findings.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
def export_findings_jsonl(env: EnvIn, caller: CallerIn, query: Annotated[FindingsFile, Query()]) -> StreamingResponse:
    """The same, a line of JSON for each."""
    lines = export_findings(env.database, query.visible_to(caller), query.state or OPEN, "jsonl")
    return StreamingResponse(lines, media_type="application/jsonl")


@router.get("/findings/{finding_id}")
def get_finding(env: EnvIn, caller: CallerIn, finding_id: Id) -> FindingShown:
    with env.database.read() as tx:
        return FindingShown(**_finding(tx, finding_id, caller).shown())


@router.post("/findings/{finding_id}/accept")
def accept(env: EnvIn, caller: CallerIn, finding_id: Id) -> FindingShown:
    """Say that a difference is as it should be. It is told again when it is another one."""
    with env.database.begin() as tx:
        accept_finding(tx, _finding(tx, finding_id, caller), by=caller.key_id, now=env.clock())
        return FindingShown(**_finding(tx, finding_id, caller).shown())


@router.post("/findings/{finding_id}/repair")
def repair(env: EnvIn, caller: CallerIn, finding_id: Id) -> FindingShown:
    """Ask the provider once more, and let the book take what it says; or make again what billhook had made."""
    with env.database.read() as tx:
        found = _finding(tx, finding_id, caller)
    ring(
        env,
        repair_finding(
            env.database, env.provider_apis, env.clock, found, by=caller.key_id, objects=lambda: env.objects
        ),
    )
    with env.database.read() as tx:
        return FindingShown(**_finding(tx, finding_id, caller).shown())
