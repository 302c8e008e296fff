"""Comparisons that need no provider: what billhook's own rows, and the files of its documents, say of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from billhook.outlets.objects import ObjectDiffers, ObjectMissing, Objects
from billhook.rules.reconcile import drift_of, persists
from billhook.store.consistency import CHECKS, Check, Difference, Scope, files_of
from billhook.store.database import Database, Tx
from billhook.store.reconciliation import Finding, Run, open_findings
from services.reconciler.comparing import Looked, Suspicion
from services.reconciler.findings import Verdict

OpenObjects = Callable[[], Objects]
"""The storage of documents, opened by whoever needs it first."""


def look_inside(database: Database, objects: OpenObjects, run: Run, name: str) -> tuple[Looked, dict[str, Any]]:
    """One page of a check; with the first, what it found before."""
    check, scope = CHECKS[name], scope_of(run.merchant_id, run.source_id, run)
    with database.read() as tx:
        page = check.page(tx, scope, run.cursor)
        known = _known(tx, run, check) if run.cursor is None else []
        subjects = list(dict.fromkeys([*page.subjects, *(check.subject_of(one.external_id) for one in known)]))
        found = _examined(tx, check, scope, subjects)
    found += _damaged(database, objects, check, subjects)
    differ = {(one.drift.kind, one.drift.external_id) for one in found}
    agreed = tuple(one.key for one in known if one.key not in differ)
    suspected = tuple(Suspicion(one.drift, "", one.stake) for one in found)
    return Looked(len(page.subjects), (), suspected, agreed), {"cursor": page.cursor}


def verdict_inside(
    database: Database, objects: OpenObjects, check: Check, run: Run, finding: Finding, now: datetime
) -> Verdict:
    """The second look at one."""
    subjects = [check.subject_of(finding.external_id)]
    scope = scope_of(finding.merchant_id, finding.source_id, run)
    with database.read() as tx:
        found = _examined(tx, check, scope, subjects)
    found += _damaged(database, objects, check, subjects)
    drift = next((one.drift for one in found if (one.drift.kind, one.drift.external_id) == finding.key), None)
    return Verdict(finding, persists("", finding.seen, "", drift), drift, "", None, now)


def _known(tx: Tx, run: Run, check: Check) -> list[Finding]:
    """What it found before, and somebody has still to see to. An event that never came is another list's business."""
    found = open_findings(tx, run.merchant_id, run.source_id, check.kinds)
    return [one for one in found if one.finding_class != "missing_event"]


def scope_of(merchant_id: str, source_id: str, run: Run) -> Scope:
    return Scope(merchant_id, source_id, run.since, run.until)


def _examined(tx: Tx, check: Check, scope: Scope, subjects: Sequence[str]) -> list[Difference]:
    return check.examine(tx, scope, subjects) if subjects else []


def _damaged(database: Database, objects: OpenObjects, check: Check, subjects: Sequence[str]) -> list[Difference]:
    """Documents whose file is gone from the storage, or is not what was stored."""
    if "document" not in check.kinds or not subjects:
        return []
    with database.read() as tx:
        files = files_of(tx, subjects)
    found = []
    for file in files:
        try:
            objects().get(file["object_key"], file["sha256"])
        except ObjectMissing:
            differs: dict[str, tuple[Any, Any]] = {"file": (None, file["object_key"])}
        except ObjectDiffers:
            differs = {"sha256": ("another", file["sha256"])}
        else:
            continue
        drift = drift_of("document", f"{file['subject_id']} {file['kind']}", differs)
        found += [Difference(drift)] if drift else []
    return found
