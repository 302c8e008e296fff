"""What people do with a dunning case: try now, give more time, another plan, an end. Who did it is kept as a step.

Each verb is in a transaction that the caller opened, locks the case, and says what to ring for after the commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from billhook.actions.book_update import merged
from billhook.actions.dunning import close
from billhook.actions.dunning_attempts import begin_attempt
from billhook.actions.dunning_news import next_attempt_at, tell, tell_standings
from billhook.errors import Refused
from billhook.queue.handler import Rings
from billhook.rules.dunning_calendar import attempt_times, ends_at
from billhook.rules.dunning_policy import LONGEST_DAYS, Policy, refusals
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case, NewStep, add_steps, change_case, get_case, wake_case
from billhook.store.dunning_policies import PolicyVersion, policies_of, set_policy
from billhook.store.own_invoices import OWN

_REASON: Final = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True)
class ChangedCase:
    case: Case
    rings: Rings


def attempt_now(tx: Tx, case_id: str, *, by: str, now: datetime) -> ChangedCase:
    """Try to collect it at once. It does not count towards the policy."""
    case, version = _locked(tx, case_id)
    if version.policy.owner == "provider":
        raise Refused(
            "dunning_owner", "Under this policy the provider tries again by itself: two who try charge twice."
        )
    if case.source_id == OWN and version.source_id is None:
        raise Refused("dunning_source", "The policy names no source at which invoices of billhook's own are charged.")
    rings = begin_attempt(tx, case, version, "operator", now, by=by)
    if not rings:
        raise Refused("dunning_state", "An attempt is under way. What became of it decides what comes next.")
    wake_case(tx, case.id, now)
    return ChangedCase(case, rings)


def extend_grace(tx: Tx, case_id: str, days: int, *, by: str, now: datetime) -> ChangedCase:
    """Let the customer keep what they have for so many days longer; the end is not before that."""
    if not 1 <= days <= LONGEST_DAYS:
        raise Refused("days_invalid", f"`days` must be 1 to {LONGEST_DAYS}.")
    case, _ = _locked(tx, case_id)
    until = max(case.grace_until, now) + timedelta(days=days)
    stage = "grace" if case.stage == "retrying" else case.stage
    longer = replace(case, stage=stage, grace_until=until, ends_at=max(case.ends_at, until), suspended_at=None)
    change_case(tx, case, longer)
    wake_case(tx, case.id, now)
    add_steps(tx, [NewStep(longer, "grace_extended", by, f"{days} days, until {until:%Y-%m-%d %H:%M} UTC")], now)
    return ChangedCase(longer, merged([{"dunning_cases": [case.id]}, tell_standings(tx, [longer], now)]))


def change_plan(tx: Tx, case_id: str, policy: Policy, *, by: str, now: datetime) -> ChangedCase:
    """Another policy for this case alone, counted from its opening. What was tried stays tried."""
    if found := refusals(policy):
        raise Refused("policy_invalid", "; ".join(found))
    case, before = _locked(tx, case_id)
    version = set_policy(tx, case.merchant_id, "case", case.id, policy, now, by=by, source_id=before.source_id)
    end = ends_at(policy, case.opened_at, ZoneInfo(case.zone))
    # A policy whose days are over would end the case in this moment, by nobody's wish.
    if end <= now:
        raise Refused("policy_invalid", f"By this policy the case would have ended at {end:%Y-%m-%d %H:%M} UTC.")
    done = sum(at <= now for at in attempt_times(policy, case.opened_at, ZoneInfo(case.zone)))
    changed = replace(
        case,
        policy_id=version.id,
        policy_attempts=done,
        ends_at=max(end, case.grace_until),
        final_action=policy.final_action,
    )
    change_case(tx, case, changed)
    wake_case(tx, case.id, now)
    add_steps(tx, [NewStep(changed, "plan_changed", by, policy.name)], now)
    parts: list[Rings] = [{"dunning_cases": [case.id]}]
    if next_attempt_at(changed, version) is not None:
        parts.append(tell(tx, "dunning.attempt_scheduled", changed, version, now))
    return ChangedCase(changed, merged(parts))


def stop(tx: Tx, case_id: str, reason: str, *, by: str, now: datetime) -> ChangedCase:
    """End it: nobody is tried or reminded any more, and it does not count against the customer."""
    if not _REASON.fullmatch(reason):
        raise Refused("reason_invalid", "`reason` must be one line of 1 to 255 characters.")
    case, _ = _locked(tx, case_id)
    rings = close(tx, case, "stopped", now, by=by, detail=reason)
    return ChangedCase(get_case(tx, case.id) or case, rings)


def _locked(tx: Tx, case_id: str) -> tuple[Case, PolicyVersion]:
    case = get_case(tx, case_id, lock=True)
    assert case is not None, "the caller has looked whose it is"
    if not case.open:
        raise Refused("dunning_state", f"The case is closed: it is {case.stage} ({case.cause}).")
    return case, policies_of(tx, [case.policy_id])[case.policy_id]
