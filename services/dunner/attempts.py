"""Attempts to collect: the handler of the payment attempts.

admit     take what the provider's account has turns for
prepare   mark what goes out as submitted, so that from here on nobody takes it for new
perform   a last look at the invoice, then the charge; what was submitted before is only asked about
effects   what came of it: for the attempt, its case and an invoice of billhook's own
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa

from billhook.actions.book_update import merged
from billhook.actions.dunning import close
from billhook.actions.dunning_attempts import Failure, attempts_failed, attempts_succeeded
from billhook.actions.invoices import pay
from billhook.errors import NotYet, Refused, TryAgain, Unprocessable
from billhook.metrics import Metrics
from billhook.providers.payments import Collected, PaymentsApi
from billhook.queue.handler import Rings
from billhook.rules.book.invoice import Invoice
from billhook.rules.dunning import invoice_cause
from billhook.rules.payment_attempts import (
    ATTEMPT,
    ATTEMPT_OF_INVOICE,
    COUNTS,
    GIVE_UP_AFTER,
    KEY_LIFE,
    REPLAYED,
    Answer,
    Status,
    ask_at,
    may_send_again,
)
from billhook.rules.retry import MAX_ATTEMPTS, Dead, Defer, Done, Outcome, describe
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_collect
from billhook.store import dead_letters
from billhook.store.database import Database, Tx, after_commit
from billhook.store.dead_letters import DeadLetter
from billhook.store.dunning_cases import Case, NewStep, add_steps, cases_by_id, change_case, wake_case
from billhook.store.dunning_policies import policies_of
from billhook.store.own_invoices import OWN, get_own_invoice
from billhook.store.payment_attempts import Attempt, attempt_of, change_attempts, payment_attempts, submit
from billhook.store.sources import Source, sources_of
from billhook.store.work import Row

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Calls at a time. A call waits for the network nearly all of its time."""
UNREACHABLE = timedelta(minutes=1)
"""Until a provider is tried again that could not be reached: nothing was sent."""

Mode = Literal["send", "ask", "end", "cancel", "settled"]


@dataclass(frozen=True, slots=True)
class AttemptJob:
    id: str
    merchant_id: str
    attempts: int
    attempt: Attempt
    case: Case
    source: Source | None
    mode: Mode


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt stands after this."""

    status: Status
    answer: Answer | None = None
    asked: bool = False
    invoice: Invoice | None = None
    """What the last look showed, where it was not what was to be paid."""
    why: str | None = None
    amount: int | None = None
    """What is open by now, where that is another amount than was to be collected: nothing was, and the attempt is made
    again with it."""


Result = tuple[AttemptJob, Outcome, Verdict]


class Attempts:
    """The handler of the attempts."""

    table: sa.Table = payment_attempts
    batch = 200
    lease = timedelta(seconds=15)
    max_attempts = MAX_ATTEMPTS

    def __init__(
        self, database: Database, apis: ProviderApis, clock: Clock, metrics: Metrics, public: str | None = None
    ) -> None:
        self._public = public
        self._metrics = metrics
        for status in get_args(Status):
            metrics.collected.labels(status)  # from 0 on, or the first would not show as an increase
        self._database = database
        self._apis = apis
        self._clock = clock
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="collecting")

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    def prepare(self, tx: Tx, rows: Sequence[Row]) -> Sequence[AttemptJob]:
        attempts = [attempt_of(row) for row in rows]
        cases = cases_by_id(tx, {attempt.case_id for attempt in attempts})
        sources = sources_of(tx, {attempt.source_id for attempt in attempts})
        now = self._clock()
        jobs = [
            AttemptJob(
                attempt.id,
                attempt.merchant_id,
                row["attempts"],
                attempt,
                cases[attempt.case_id],
                sources.get(attempt.source_id),
                _mode(attempt, cases[attempt.case_id], now),
            )
            for attempt, row in zip(attempts, rows, strict=True)
        ]
        submit(tx, [job.id for job in jobs if job.mode == "send"], now)
        return [
            replace(
                job,
                attempt=replace(job.attempt, sends=job.attempt.sends + 1, submitted_at=job.attempt.submitted_at or now),
            )
            if job.mode == "send"
            else job
            for job in jobs
        ]

    def perform(self, jobs: Sequence[AttemptJob]) -> Sequence[Result]:
        return list(self._pool.map(self._attempt, jobs))

    def _attempt(self, job: AttemptJob) -> Result:
        if job.mode == "settled":
            return job, Done("done"), Verdict(job.attempt.status)
        if job.mode == "cancel":
            return job, Done("done"), Verdict("canceled", why="The case is closed.")
        if job.source is None or not can_collect(job.source):
            refused = Answer("refused", "api_key_missing", "The source has no API key that could charge.")
            return job, Done("done"), Verdict("failed", refused)
        api = self._apis.collecting(job.source)
        try:
            return self._send(job, api) if job.mode == "send" else self._ask(job, api)
        except Exception as error:
            # Whatever it was, the attempt may have gone out: only asking tells.
            log.warning("attempt unsettled", extra={"id": job.id, "reason": describe(error)})
            silence = Answer("pending", "no_answer", describe(error))
            return self._unknown(job, silence, self._clock(), asked=job.mode != "send")

    def _send(self, job: AttemptJob, api: PaymentsApi) -> Result:
        """The last look, and then the charge."""
        try:
            found = self._look(job, api)
        except TryAgain as error:
            return self._not_sent(job, error, self._clock())
        except Unprocessable as error:
            # Nobody was charged, so no customer is to read that a payment failed.
            return job, Done("done"), Verdict("canceled", why=f"Not tried: {str(error)[:300]}")
        if found is not None:
            return job, Done("done"), found
        try:
            with self._apis.first():
                answer = self._charge(job, api)
        except TryAgain as error:
            return self._not_sent(job, error, self._clock())
        return self._judge(job, answer, self._clock(), asked=False)

    def _charge(self, job: AttemptJob, api: PaymentsApi) -> Answer:
        attempt, case = job.attempt, job.case
        if case.source_id != OWN:
            return api.pay_invoice(case.invoice, key=attempt.idempotency_key, account=attempt.account)
        assert case.customer is not None
        return api.charge(
            case.customer,
            attempt.amount,
            attempt.currency,
            key=attempt.idempotency_key,
            metadata={ATTEMPT: attempt.id, ATTEMPT_OF_INVOICE: case.invoice_id},
            account=attempt.account,
        )

    def _look(self, job: AttemptJob, api: PaymentsApi) -> Verdict | None:
        """Why it must not be collected now; None where the invoice is still open, with the amount that was meant."""
        attempt, case = job.attempt, job.case
        if case.source_id == OWN:
            with self._database.read() as tx:
                own = get_own_invoice(tx, case.invoice_id)
            if own is None or own.state != "open":
                return Verdict("canceled", why="The invoice is not open any more.")
            if case.customer is None:
                return Verdict("failed", Answer("method_missing", "customer_missing", "The invoice names no customer."))
            since = own.finalized_at or own.created_at
            paid = api.collected(case.customer, own.id, since, account=attempt.account)
            return _other_amount(own.amount_remaining, attempt) if paid is None else _paid_before(paid, attempt)
        found, said = api.last_look(case.invoice, account=attempt.account)
        if invoice_cause(found) is not None or found.status != "open":
            return Verdict("canceled", invoice=found, why=f"The invoice is {found.status} at the provider.")
        if found.currency != attempt.currency:
            return Verdict("canceled", why=f"The invoice is in {found.currency} by now.")
        if found.next_payment_attempt is not None:
            return Verdict(
                "canceled",
                why="The provider means to try this invoice itself: switch its retries off, or have the policy leave"
                " them to the provider. Nothing was charged.",
            )
        # Where that is known already, this is the last attempt of the policy.
        first = attempt.number == 1 and attempt.trigger == "dunning" and case.stage != "awaiting_customer"
        if first and said is not None and said.kind == "hard":
            # Of the charge before the case: as after a decline of ours, nothing is tried blindly.
            return Verdict("failed", replace(said, message=f"Not tried: {said.message or 'declined for good before'}"))
        return _other_amount(found.amount_remaining, attempt)

    def _ask(self, job: AttemptJob, api: PaymentsApi) -> Result:
        attempt, case, now = job.attempt, job.case, self._clock()
        since = attempt.submitted_at or attempt.created_at
        try:
            if case.source_id == OWN:
                answer = api.charge_outcome(
                    attempt.id,
                    case.customer or "",
                    since,
                    account=attempt.account,
                    key_forgotten=now - since >= KEY_LIFE,
                )
                if job.mode == "end" and answer.kind != "succeeded" and answer.reference is not None:
                    answer = api.cancel_payment(answer.reference, account=attempt.account)
            else:
                answer = api.invoice_outcome(case.invoice, since, account=attempt.account)
                if job.mode == "end" and answer.kind == "requires_action":
                    # The provider's own payment of this invoice: it can be paid once, whoever tries it next.
                    answer = replace(answer, kind="soft", code="action_not_taken")
        except NotYet as error:
            at = self._clock() + timedelta(seconds=error.after_seconds or 1.0)
            return job, Defer(at, str(error)), Verdict(attempt.status)
        except TryAgain as error:
            return self._unknown(job, Answer("pending", attempt.code, str(error)), self._clock(), asked=True)
        return self._judge(job, answer, self._clock(), asked=True)

    def _judge(self, job: AttemptJob, answer: Answer, now: datetime, *, asked: bool) -> Result:
        attempt = job.attempt
        match answer.kind:
            case "succeeded":
                return job, Done("done"), Verdict("succeeded", answer, asked)
            case "requires_action" if job.mode == "end":
                return job, Done("done"), Verdict("failed", answer, asked)
            case "requires_action":
                until = min(now + timedelta(days=1), max(job.case.ends_at, now + timedelta(minutes=1)))
                return job, Defer(until, "waits for the customer"), Verdict("requires_action", answer, asked)
            case "pending":
                return self._unknown(job, answer, now, asked=asked)
            case "nothing" if (
                attempt.status != "requires_action"
                and attempt.code != REPLAYED
                and may_send_again(attempt.sends, attempt.submitted_at or now, now)
            ):
                return job, Defer(now, "the provider never got it"), Verdict("created", answer, asked)
            case "nothing":
                never = replace(answer, code=attempt.code if attempt.code == REPLAYED else "never_arrived")
                return job, Done("done"), Verdict("failed", never, asked)
            case _:
                return job, Done("done"), Verdict("failed", answer, asked)

    def _unknown(self, job: AttemptJob, answer: Answer, now: datetime, *, asked: bool) -> Result:
        attempt = job.attempt
        since = attempt.submitted_at or attempt.created_at
        reason = f"nobody knows yet what became of it: {answer.message or answer.code}"
        if answer.replayed:
            answer = replace(answer, code=REPLAYED)
        status: Status = "requires_action" if attempt.status == "requires_action" else "unknown"
        verdict = Verdict(status, answer, asked)
        if asked and now - since >= GIVE_UP_AFTER:
            return job, Dead(f"{reason}. Look it up at the provider, key {attempt.idempotency_key}."), verdict
        return job, Defer(ask_at(attempt.asked + int(asked), now), reason), verdict

    def _not_sent(self, job: AttemptJob, error: TryAgain, now: datetime) -> Result:
        """Nothing was sent, for certain: it is tried again later as the same attempt, for a week at most."""
        if now - job.attempt.created_at >= GIVE_UP_AFTER:
            return job, Done("done"), Verdict("failed", Answer("soft", "provider_unreachable", str(error)[:300]))
        pause = timedelta(seconds=error.after_seconds) if error.after_seconds else None
        return job, Defer(now + (pause or UNREACHABLE), str(error)[:300]), Verdict("created", why=str(error))

    def about(self, job: AttemptJob, verdict: Verdict) -> dict[str, Any]:
        return {"case_id": job.case.id, "invoice_id": job.case.invoice_id, "status": verdict.status}

    def effects(self, tx: Tx, results: Sequence[Result], now: datetime) -> Rings:
        # Own invoices before cases, as everybody locks them.
        parts: list[Rings] = []
        for job, _, verdict in results:
            if verdict.status == "succeeded" and job.attempt.status != "succeeded" and job.case.source_id == OWN:
                parts.append(_pay_own(tx, job, verdict, now))
        cases = cases_by_id(tx, {job.case.id for job, _, _ in results}, lock=True)
        versions = policies_of(tx, {case.policy_id for case in cases.values()})
        told = [result for result in results if result[0].mode != "settled"]
        change_attempts(tx, {job.id: _changes(job.attempt, verdict) for job, _, verdict in told})
        paid = [(cases[job.case.id], job.attempt) for job, _, verdict in told if verdict.status == "succeeded"]
        parts.append(attempts_succeeded(tx, paid, now))
        failures = [
            Failure(cases[job.case.id], versions[cases[job.case.id].policy_id], job.attempt, verdict.answer)
            for job, _, verdict in told
            if verdict.answer is not None and _failed(job.attempt, verdict)
        ]
        parts.append(attempts_failed(tx, failures, now, public=self._public))
        for job, outcome, verdict in told:
            after_commit(tx, self._metrics.collected.labels(verdict.status).inc)
            case = cases[job.case.id]
            parts.append(_written(tx, job, verdict, case, now))
            if isinstance(outcome, Dead):
                wake_case(tx, case.id, now)
                parts.append({"dunning_cases": [case.id]})
        return merged(parts)


def _failed(attempt: Attempt, verdict: Verdict) -> bool:
    """Whether this is news of a failure: that a step of the customer is needed is told once."""
    return verdict.status == "failed" or (verdict.status == "requires_action" and attempt.status != "requires_action")


def _written(tx: Tx, job: AttemptJob, verdict: Verdict, case: Case, now: datetime) -> Rings:
    answer = verdict.answer
    match verdict.status:
        case "canceled":
            add_steps(tx, [NewStep(case, "attempt_canceled", detail=verdict.why)], now)
            cause = invoice_cause(verdict.invoice) if verdict.invoice is not None else None
            if cause is not None:
                return close(tx, case, cause, now, detail="as the last look before the attempt showed")
            if verdict.amount is not None:
                _keep_attempt(tx, case, job.attempt, verdict.amount)
            wake_case(tx, case.id, now)
            return {"dunning_cases": [case.id]}
        case "unknown" if job.attempt.status != "unknown":
            add_steps(tx, [NewStep(case, "attempt_unknown", detail=answer.message if answer else None)], now)
    return {}


def _other_amount(open_now: int, attempt: Attempt) -> Verdict | None:
    if open_now == attempt.amount:
        return None
    return Verdict("canceled", amount=open_now, why=f"{open_now} are open by now, and not {attempt.amount}.")


def _paid_before(paid: Collected, attempt: Attempt) -> Verdict:
    """The ledger does not know of this payment: it came back older than it was, from a backup or a replica."""
    if paid.amount == attempt.amount:
        return Verdict("succeeded", Answer("succeeded", reference=paid.reference), asked=True)
    why = f"Not tried: payment {paid.reference} of {paid.amount} was collected for it, and {attempt.amount} are open."
    return Verdict("failed", Answer("refused", "collected_before", f"{why} Settle it by hand."))


def _keep_attempt(tx: Tx, case: Case, attempt: Attempt, amount: int) -> None:
    """Nothing was tried: the policy has this attempt still to make."""
    made = max(0, case.policy_attempts - int(COUNTS[attempt.trigger]))
    at_once = case.try_at_once or attempt.trigger == "method_added"
    change_case(tx, case, replace(case, amount=amount, policy_attempts=made, try_at_once=at_once))


def _changes(attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
    changes = {"status": verdict.status, "asked": attempt.asked + int(verdict.asked), "slot_at": None}
    answer = verdict.answer
    if answer is None:
        return changes
    told = {"code": answer.code, "message": answer.message, "action_url": answer.action_url}
    return {**changes, **told, "reference": answer.reference or attempt.reference}


def _mode(attempt: Attempt, case: Case, now: datetime) -> Mode:
    match attempt.status:
        case "created":
            return "send" if case.open else "cancel"
        case "submitted" | "unknown":
            return "ask"
        case "requires_action":
            over = not case.open or case.try_at_once or now >= case.ends_at
            return "end" if over else "ask"
        case _:
            return "settled"


def _pay_own(tx: Tx, job: AttemptJob, verdict: Verdict, now: datetime) -> Rings:
    """The money came: the invoice is paid, and its case closed with it. Where it was settled by other means in the very
    moment, a person has to give the money back."""
    reference = verdict.answer.reference if verdict.answer else None
    try:
        return pay(tx, job.case.invoice_id, now=now, reference=reference).rings
    except Refused as error:
        reason = f"The invoice was settled by other means while it was charged ({error}). Refund payment {reference}."
        dead_letters.bury(tx, payment_attempts.name, [DeadLetter(job.merchant_id, job.id, reason, job.attempts)], now)
        return {}
