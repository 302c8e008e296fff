"""Reconciliation: what differs between the book and a provider, with both sides, to be accepted or repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.reconciliation import accept_finding, repair_finding
from billhook.actions.ringing import ring
from billhook.rules.reconcile import OPEN
from billhook.store.database import Tx
from billhook.store.merchants import merchants_of
from billhook.store.operator_actions import list_actions
from billhook.store.reconciliation import Finding, get_finding, list_runs
from billhook.store.reconciliation import list_findings as stored
from billhook.store.sources import sources_of
from services.desk.console.fields import money_in
from services.desk.console.lists import PAGE, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import not_found

router = APIRouter()

WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "missing_event": ("An event never came", "The provider has an event that is not in the inbox."),
    "missing_local": (
        "Not in the book",
        "The provider has it, and the book does not, or what follows was not made.",
    ),
    "missing_remote": (
        "Not at the provider",
        "The book has it, the provider does not. A repair marks it as deleted.",
    ),
    "status_mismatch": ("Another status", ""),
    "period_mismatch": ("Another period", ""),
    "stale_projection": ("The book is behind", ""),
    "amount_mismatch": ("Another amount", "Money differs: nothing of it is repaired without a person."),
    "currency_mismatch": ("Another currency", "Money differs: nothing of it is repaired without a person."),
    "missing_document": ("No document", "An invoice has no document, or its file is gone. A repair draws it again."),
    "corrupt_document": (
        "A damaged file",
        "The file is not what was stored. A repair draws it again.",
    ),
    "unprocessed_event": ("An event that was given up", "It came, and was not processed. A repair processes it again."),
    "conflict": ("Other bytes under a known id", "A repair asks the provider for what both of them name."),
    "double_retry_owner": (
        "The provider retries too",
        "billhook tries again, and so does the provider: switch the account's own retries off, then repair.",
    ),
    "orphan_payment": (
        "Money for an invoice that is not paid",
        "A payment names an own invoice that is still open. A repair marks it as paid by this payment.",
    ),
    "duplicate_remote": (
        "Paid twice",
        "Give the money back at the provider: the finding closes by itself.",
    ),
}
"""What a difference is called, and what is to be said of it."""

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
        merchants = merchants_of(tx, {run.merchant_id for run in runs})
    shown = found[:PAGE]
    more = filters.behind(shown[-1].id if len(found) > PAGE else None)
    template = "findings_rows.html" if is_more(request) else "findings.html"
    return page(
        request,
        template,
        findings=shown,
        runs=runs,
        sources=sources,
        merchants=merchants,
        more=more,
        filters=filters,
        states=list(STATES),
        words=WORDS,
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
        words=WORDS[finding.finding_class],
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
    return acting.back(f"/findings/{finding_id}", "Accepted: it is not told again until it is another difference.")


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
    return acting.back(f"/findings/{finding_id}", "It is repaired: the services take it from here.")
