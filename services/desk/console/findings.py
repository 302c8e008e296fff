"""Reconciliation: what differs between the book and a provider, with both sides, to be accepted or repaired."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.reconciliation import accept_finding, repair_finding
from billhook.actions.ringing import ring
from billhook.rules.reconcile import OPEN
from billhook.store.database import Tx
from billhook.store.operator_actions import list_actions
from billhook.store.reconciliation import Finding, get_finding, list_runs
from billhook.store.reconciliation import list_findings as stored
from billhook.store.sources import sources_of
from services.desk.console.fields import money_in
from services.desk.console.lists import PAGE, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, OperateIn, SessionIn, back
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

STATES: Final = {
    "open": OPEN,
    "suspected": ("suspected",),
    "repaired": ("repaired",),
    "accepted": ("accepted",),
}


@router.get("/findings")
def list_findings(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    states = STATES[filters.one_of("state", STATES) or "open"]
    with env.database.read() as tx:
        found = stored(
            tx, merchant_id=filters.id("merchant"), states=states, before=filters.id("before"), limit=PAGE + 1
        )
        runs = [] if is_more(request) else list_runs(tx, merchant_id=filters.id("merchant"), limit=8)
        sources = sources_of(tx, {one.source_id for one in found} | {run.source_id for run in runs})
    shown = found[:PAGE]
    more = filters.behind(shown[-1].id if len(found) > PAGE else None)
    template = "findings_rows.html" if is_more(request) else "findings.html"
    return page(
        request, template, findings=shown, runs=runs, sources=sources, more=more, filters=filters, states=list(STATES)
    )


@router.get("/findings/{finding_id}")
def show_finding(request: Request, env: EnvIn, session: SessionIn, finding_id: Id) -> Response:
    with env.database.read() as tx:
        finding = _find(tx, finding_id)
        source = sources_of(tx, {finding.source_id}).get(finding.source_id)
        actions = list_actions(tx, subject=finding_id, limit=20)
    differences = [
        (name, *(money_in(finding.kind, name, side, finding.currency) for side in sides))
        for name, sides in finding.differences.items()
    ]
    return page(
        request,
        "finding.html",
        finding=finding,
        source=source,
        differences=differences,
        actions=actions,
        undecided=finding.state in OPEN,
    )


def _find(tx: Tx, finding_id: str) -> Finding:
    finding = get_finding(tx, finding_id)
    if finding is None:
        raise not_found("finding")
    return finding


@router.post("/findings/{finding_id}/accept")
def accept(acting: OperateIn, finding_id: Id) -> Response:
    env, reason = acting.env, acting.reason()
    with env.database.begin() as tx:
        finding = _find(tx, finding_id)
        accept_finding(tx, finding, by=acting.by, now=env.clock())
        acting.note(tx, "finding.accept", finding_id, finding.merchant_id, reason=reason)
    return back(f"/findings/{finding_id}", "Accepted: it is not told again until it is another difference.")


@router.post("/findings/{finding_id}/repair")
def repair(acting: OperateIn, finding_id: Id) -> Response:
    env = acting.env
    with env.database.begin() as tx:
        finding = _find(tx, finding_id)
        # Before: the provider is asked meanwhile, and a repair that was tried is worth knowing of.
        acting.note(tx, "finding.repair", finding_id, finding.merchant_id)
    rings = repair_finding(
        env.database, env.provider_apis, env.clock, finding, by=acting.by, objects=lambda: env.objects
    )
    ring(env, rings)
    return back(f"/findings/{finding_id}", "It is repaired: the services take it from here.")
