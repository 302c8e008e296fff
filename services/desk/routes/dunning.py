"""Dunning: a merchant's policies, its cases and what people do with them, and the standing of customers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, Field

from billhook.actions import dunning_cases as verbs
from billhook.actions.dunning_news import calendar_of, progress_of
from billhook.actions.dunning_policies import change_policy, check_owner
from billhook.actions.ringing import ring
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.dunning import STAGES
from billhook.rules.dunning_policy import PRESETS, Policy, ScopeKind
from billhook.store.database import Tx
from billhook.store.debts import debts_of_customers
from billhook.store.dunning_cases import Case, get_case, list_cases, steps_of
from billhook.store.dunning_policies import PolicyVersion, current_policies, policies_of
from billhook.store.dunning_report import dunning_report
from billhook.store.merchants import Caller
from billhook.store.payment_attempts import attempts_of
from services.desk import bodies
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Listing, OldestFirst, Optional, Page, Text, page_of
from services.desk.lengthy import Lengthy
from services.desk.refusals import Refusal, not_found
from services.desk.routes.merchants import find_merchant
from services.desk.routes.standing import answered

router = APIRouter(prefix="/v1", tags=["dunning"])
long = APIRouter(prefix=router.prefix, tags=router.tags, route_class=Lengthy)


class PolicyShown(BaseModel):
    id: str
    merchant_id: str
    scope_kind: str
    scope: str
    version: int
    source_id: str | None
    created_at: datetime
    created_by: str
    policy: dict[str, Any]


class CaseShown(BaseModel):
    id: str
    merchant_id: str
    source_id: str
    invoice_id: str
    invoice: str = Field(description="The provider's id of the invoice.")
    number: str | None
    customer: str | None
    subscription: str | None
    currency: str
    amount: int
    stage: str
    cause: str | None
    opened_at: datetime
    grace_until: datetime
    ends_at: datetime
    suspended_at: datetime | None
    closed_at: datetime | None
    decline_code: str | None
    pay_url: str | None
    recovered_attempt: int | None
    final_action: str


class StepShown(BaseModel):
    at: datetime
    cause: str
    stage: str
    by: str | None
    detail: str | None


class AttemptShown(BaseModel):
    id: str
    number: int
    trigger: str
    status: str
    code: str | None
    message: str | None
    reference: str | None
    created_at: datetime
    created_by: str | None


class ComingShown(BaseModel):
    at: datetime
    what: str = Field(description="attempt, reminder, attempt_reminder, grace_over or end.")


class CaseWhole(CaseShown):
    policy: PolicyShown
    coming: list[ComingShown] = Field(description="The calendar: what is still to come, as it looks today.")
    attempts: list[AttemptShown]
    steps: list[StepShown] = Field(description="What happened, with its cause and who did it.")


class CaseListing(OldestFirst):
    stage: str | None = Field(None, description=f"One of {', '.join(STAGES)}.")
    customer: Text | None = Field(None, description="The provider's id of the customer.")


class Days(Body):
    days: int = Field(ge=1, le=365)


class Reason(Body):
    reason: Text


class ReportQuery(Listing):
    since: AwareDatetime | Optional = Field(None, description="Left out: 30 days ago.")
    until: AwareDatetime | Optional = Field(None, description="Left out: now.")


class MoneyShown(BaseModel):
    currency: str
    recovered: int = Field(description="In minor units.")
    recovered_cases: int
    lost: int
    lost_cases: int


class RateShown(BaseModel):
    of: str = Field(description="The number of the attempt, or the decline code.")
    tried: int
    recovered: int


class ReportShown(BaseModel):
    money: list[MoneyShown]
    by_attempt: list[RateShown]
    by_decline_code: list[RateShown]
    open_cases: dict[str, int]
    oldest_due_attempt_seconds: float


class StandingShown(BaseModel):
    customer_id: str
    state: str = Field(description="active, grace or suspended.")
    since: datetime | None
    until: datetime | None = Field(description="The end of the grace.")
    reason: str | None
    invoices: list[str] = Field(description="billhook's ids of what is not paid.")


@router.get("/dunning/presets")
def list_presets() -> dict[str, Any]:
    """Policies to begin with, by name."""
    presets: dict[str, Any] = msgspec.to_builtins(dict(PRESETS))
    return presets


SETTINGS = "/merchants/{merchant_id}/dunning"
ScopeIn = Annotated[ScopeKind, Query(description="Whose: the merchant's, or only of a price or a customer.")]
NameIn = Annotated[str, Query(max_length=255, description="The provider's id of that price or customer.")]


@router.get(SETTINGS)
def get_policies(env: EnvIn, caller: CallerIn, merchant_id: Id) -> list[PolicyShown]:
    """What counts now: the merchant's policy, and the narrower ones."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
        return [_policy(version) for version in current_policies(tx, [merchant_id]).get(merchant_id, [])]


@router.put(SETTINGS, openapi_extra=bodies.asks(Policy))
def put_policy(
    env: EnvIn,
    caller: CallerIn,
    merchant_id: Id,
    policy: Annotated[Policy, Depends(bodies.read(Policy))],
    scope_kind: ScopeIn = "merchant",
    scope: NameIn = "",
    source_id: Annotated[Id | Optional, Query(description="Where invoices of billhook's own are charged.")] = None,
) -> PolicyShown:
    """Set a policy. Cases that are open keep the one they were opened with. One that charges is refused where the
    provider's own retries are on, or its key may not write."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
    check_owner(env.database, env.provider_apis, merchant_id, policy)
    with env.database.begin() as tx:
        version = change_policy(
            tx,
            merchant_id,
            policy,
            by=caller.key_id,
            now=env.clock(),
            scope_kind=scope_kind,
            scope=scope,
            source_id=source_id,
        )
    assert version is not None
    return _policy(version)


@router.delete(SETTINGS, status_code=204)
def delete_policy(
    env: EnvIn, caller: CallerIn, merchant_id: Id, scope_kind: ScopeIn = "merchant", scope: NameIn = ""
) -> None:
    """No policy from now on: what fails opens no case, or falls under the next wider policy."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        change_policy(tx, merchant_id, None, by=caller.key_id, now=env.clock(), scope_kind=scope_kind, scope=scope)


@router.get("/dunning/cases")
def get_cases(env: EnvIn, caller: CallerIn, query: Annotated[CaseListing, Query()]) -> Page[CaseShown]:
    if query.stage is not None and query.stage not in STAGES:
        raise Refusal(422, "stage_unknown", f"stage: one of {', '.join(STAGES)}.")
    with env.database.read() as tx:
        found = list_cases(
            tx,
            merchant_id=query.visible_to(caller),
            stage=query.stage,
            customer=query.customer,
            after=query.after,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _case, lambda case: case.id)


@router.get("/dunning/cases/{case_id}")
def show_case(env: EnvIn, caller: CallerIn, case_id: Id) -> CaseWhole:
    with env.database.read() as tx:
        return _whole(tx, _find(tx, case_id, caller))


@router.post("/dunning/cases/{case_id}/attempt", status_code=202)
def attempt(env: EnvIn, caller: CallerIn, case_id: Id) -> CaseWhole:
    """Try to collect it at once. It does not count towards the policy."""
    return _do(env, caller, case_id, lambda tx: verbs.attempt_now(tx, case_id, by=caller.key_id, now=env.clock()))


@router.post("/dunning/cases/{case_id}/grace")
def grace(env: EnvIn, caller: CallerIn, case_id: Id, given: Days) -> CaseWhole:
    """Give the customer more time."""
    return _do(
        env, caller, case_id, lambda tx: verbs.extend_grace(tx, case_id, given.days, by=caller.key_id, now=env.clock())
    )


@router.put("/dunning/cases/{case_id}/plan", openapi_extra=bodies.asks(Policy))
def plan(
    env: EnvIn, caller: CallerIn, case_id: Id, policy: Annotated[Policy, Depends(bodies.read(Policy))]
) -> CaseWhole:
    """Another policy for this case alone."""
    with env.database.read() as tx:
        case = _find(tx, case_id, caller)
    check_owner(env.database, env.provider_apis, case.merchant_id, policy)
    return _do(
        env, caller, case_id, lambda tx: verbs.change_plan(tx, case_id, policy, by=caller.key_id, now=env.clock())
    )


@router.post("/dunning/cases/{case_id}/stop")
def stop(env: EnvIn, caller: CallerIn, case_id: Id, why: Reason) -> CaseWhole:
    """End the case: nobody is charged or reminded, and the customer is active again."""
    return _do(env, caller, case_id, lambda tx: verbs.stop(tx, case_id, why.reason, by=caller.key_id, now=env.clock()))


@long.get("/dunning/report")
def report(env: EnvIn, caller: CallerIn, query: Annotated[ReportQuery, Query()]) -> ReportShown:
    """What was recovered and lost in the time, by which attempt, after which declines; and how things stand now."""
    now = env.clock()
    with env.database.read() as tx:
        found = dunning_report(
            tx,
            merchant_id=query.visible_to(caller),
            since=query.since or now - timedelta(days=30),
            until=query.until or now,
            now=now,
        )
    return ReportShown.model_validate(asdict(found))


@router.get("/customers/{customer_id}/standing", response_model=StandingShown)
def get_standing(
    env: EnvIn,
    caller: CallerIn,
    customer_id: Annotated[Text, Path(description="billhook's id, or with `source_id` the provider's.")],
    source_id: Annotated[Id | Optional, Query(description="The source that the provider's id is of.")] = None,
    account: Annotated[str, Query(max_length=255, description="The connected account, where there are such.")] = "",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Whether a customer may have what they pay for: ask on every request of yours, with the `ETag` of the answer
    before."""
    if source_id is not None:
        customer_id = book_id(source_id, account, Customer(external_id=customer_id))
    [found] = debts_of_customers(env.database, [(caller.merchant_id, customer_id)], env.clock()).of.values()
    if found is None:
        raise not_found("customer")
    status, shown, body = answered(customer_id, found, if_none_match, env.clock)
    return Response(body, status, {name.decode(): value.decode() for name, value in shown})


def _find(tx: Tx, case_id: str, caller: Caller) -> Case:
    case = get_case(tx, case_id, merchant_id=caller.merchant_id)
    if case is None:
        raise not_found("dunning case")
    return case


def _do(env: EnvIn, caller: Caller, case_id: str, verb: Callable[[Tx], verbs.ChangedCase]) -> CaseWhole:
    with env.database.begin() as tx:
        _find(tx, case_id, caller)
        done = verb(tx)
        shown = _whole(tx, done.case)
    ring(env, done.rings)
    return shown


def _policy(version: PolicyVersion) -> PolicyShown:
    return PolicyShown(**{**vars(version), "policy": msgspec.to_builtins(version.policy)})


def _case(case: Case) -> CaseShown:
    return CaseShown(**{name: getattr(case, name) for name in CaseShown.model_fields})


def _whole(tx: Tx, case: Case) -> CaseWhole:
    version = policies_of(tx, [case.policy_id])[case.policy_id]
    attempts = attempts_of(tx, case.id)
    coming = calendar_of(case, version).steps(progress_of(case)) if case.open else []
    return CaseWhole(
        **_case(case).model_dump(),
        policy=_policy(version),
        coming=[ComingShown(at=step.at, what=step.kind) for step in coming],
        attempts=[AttemptShown(**{name: getattr(one, name) for name in AttemptShown.model_fields}) for one in attempts],
        steps=[StepShown(**row) for row in steps_of(tx, case.id)],
    )


router.routes.extend(long.routes)
