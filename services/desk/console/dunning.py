"""Failed payments: each case with its calendar, and what a person may do about it."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions import dunning_cases as verbs
from billhook.actions.dunning_news import calendar_of, progress_of
from billhook.actions.ringing import ring
from billhook.rules.dunning import STAGES
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case, get_case, newest_cases, steps_of
from billhook.store.dunning_policies import policies_of
from billhook.store.merchants import merchants_of
from billhook.store.operator_actions import list_actions
from billhook.store.payment_attempts import attempts_of
from services.desk.console.case_words import COMING, ENDS, TRIGGERS
from services.desk.console.lists import PAGE, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import Acting, EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import Refusal, not_found

router = APIRouter()


@router.get("/dunning")
def list_cases(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = newest_cases(
            tx,
            merchant_id=filters.id("merchant"),
            stage=filters.one_of("stage", STAGES),
            before=filters.id("before"),
            limit=PAGE + 1,
        )
        merchants = merchants_of(tx, {case.merchant_id for case in found})
    shown = found[:PAGE]
    more = filters.behind(shown[-1].id if len(found) > PAGE else None)
    template = "dunning_rows.html" if is_more(request) else "dunning.html"
    return page(request, template, cases=shown, merchants=merchants, more=more, filters=filters, stages=STAGES)


@router.get("/dunning/{case_id}")
def show_case(request: Request, env: EnvIn, session: SessionIn, case_id: Id) -> Response:
    with env.database.read() as tx:
        case = _find(tx, case_id)
        version = policies_of(tx, [case.policy_id])[case.policy_id]
        steps, attempts = steps_of(tx, case_id), attempts_of(tx, case_id)
        merchant = merchants_of(tx, {case.merchant_id})[case.merchant_id]
        actions = list_actions(tx, subject=case_id, limit=20)
    coming = calendar_of(case, version).steps(progress_of(case)) if case.open else []
    return page(
        request,
        "case.html",
        case=case,
        policy=version.policy,
        merchant=merchant,
        steps=steps,
        attempts=attempts,
        coming=coming,
        actions=actions,
        triggers=TRIGGERS,
        kinds=COMING,
        ends=ENDS,
    )


def _find(tx: Tx, case_id: str) -> Case:
    case = get_case(tx, case_id)
    if case is None:
        raise not_found("dunning case")
    return case


@router.post("/dunning/{case_id}/attempt")
def attempt(acting: OperateIn, case_id: Id) -> Response:
    now = acting.env.clock()
    return _do(acting, case_id, "attempt", lambda tx: verbs.attempt_now(tx, case_id, by=acting.by, now=now))


@router.post("/dunning/{case_id}/grace")
def grace(acting: OperateIn, case_id: Id) -> Response:
    given, now = acting.form.one("days"), acting.env.clock()
    if not given.isdecimal() or len(given) > 4:
        raise Refusal(422, "days_invalid", "days: a whole number of days.")
    days = int(given)
    return _do(acting, case_id, "grace", lambda tx: verbs.extend_grace(tx, case_id, days, by=acting.by, now=now), days)


@router.post("/dunning/{case_id}/stop")
def stop(acting: OperateIn, case_id: Id) -> Response:
    reason, now = acting.reason(), acting.env.clock()
    return _do(acting, case_id, "stop", lambda tx: verbs.stop(tx, case_id, reason, by=acting.by, now=now), reason)


def _do(
    acting: Acting, case_id: str, action: str, verb: Callable[[Tx], verbs.ChangedCase], detail: int | str | None = None
) -> Response:
    with acting.env.database.begin() as tx:
        case = _find(tx, case_id)
        done = verb(tx)
        acting.note(tx, f"dunning_case.{action}", case_id, case.merchant_id, given=detail)
    ring(acting.env, done.rings)
    said = {"attempt": "It is tried at once.", "grace": "The customer has more time.", "stop": "The case is ended."}
    return acting.back(f"/dunning/{case_id}", said[action])
