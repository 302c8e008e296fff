"""Comparisons that need no provider: what billhook's own rows, and the files of its documents, say of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from billhook.errors import Unprocessable
from billhook.outlets.objects import ObjectDiffers, ObjectMissing, Objects
from billhook.providers import seller_of
from billhook.rules.reconcile import drift_of, persists
from billhook.store.consistency.check import PAGE, Check, Difference, Page, Scope
from billhook.store.consistency.checks import CHECKS, DOCUMENTS, FILES
from billhook.store.consistency.documents import files_of
from billhook.store.database import Database, Tx
from billhook.store.file_walks import count_documents, next_documents, share_of
from billhook.store.reconciliation import Finding, Run, open_findings
from billhook.store.sources import Source
from services.reconciler.comparing import Looked, Suspicion
from services.reconciler.findings import Verdict

MOST_GONE: Final = 20
"""Files that are looked for and all gone: that is not so many faults, but one, and nothing to repair by drawing."""

OpenObjects = Callable[[], Objects]
"""The storage of documents, opened by whoever needs it first."""


def look_inside(
    database: Database, objects: OpenObjects, run: Run, source: Source | None, name: str
) -> tuple[Looked, dict[str, Any]]:
    """One page of a check; with the first, what it found before."""
    if name == DOCUMENTS and source is not None and seller_of(source.provider) is not None:
        return _nothing_is_missing(database, run, CHECKS[name])
    check, scope = CHECKS[name], scope_of(run.merchant_id, run.source_id, run)
    shared = name == FILES and run.scheduled
    with database.read() as tx:
        page = _share(tx, run) if shared else check.page(tx, scope, run.cursor)
        known = _known(tx, run, check) if run.cursor is None else []
        subjects = list(dict.fromkeys([*page.subjects, *(check.subject_of(one.external_id) for one in known)]))
        found = _examined(tx, check, scope, subjects)
    found += _damaged(database, objects, check, scope, subjects)
    differ = {(one.drift.kind, one.drift.external_id) for one in found}
    agreed = tuple(one.key for one in known if one.key not in differ)
    suspected = tuple(Suspicion(one.drift, "", one.stake) for one in found)
    place = page.place if shared else None
    return Looked(len(page.subjects), (), suspected, agreed, walked_to=place), {"cursor": page.cursor}


def _nothing_is_missing(database: Database, run: Run, check: Check) -> tuple[Looked, dict[str, Any]]:
    """What it found before ends: the provider makes the documents, and there is none of ours to miss."""
    with database.read() as tx:
        known = _known(tx, run, check)
    return Looked(0, agreed=tuple(one.key for one in known)), {"cursor": None}


def _share(tx: Tx, run: Run) -> Page:
    """The next files of the night's share. The cursor says how many of it are left."""
    left = share_of(count_documents(tx, run.merchant_id)) if run.cursor is None else int(run.cursor)
    found = next_documents(tx, run.merchant_id, min(PAGE, left))
    through = not found or len(found) < min(PAGE, left)
    return Page(found, None if through or left <= PAGE else str(left - PAGE), "" if through else found[-1])


def verdict_inside(
    database: Database, objects: OpenObjects, check: Check, run: Run, finding: Finding, now: datetime
) -> Verdict:
    """The second look at one."""
    subjects = [check.subject_of(finding.external_id)]
    scope = scope_of(finding.merchant_id, finding.source_id, run)
    with database.read() as tx:
        found = _examined(tx, check, scope, subjects)
    found += _damaged(database, objects, check, scope, subjects)
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


def _damaged(
    database: Database, objects: OpenObjects, check: Check, scope: Scope, subjects: Sequence[str]
) -> list[Difference]:
    """Documents whose file is gone from the storage, or is not what was stored."""
    if "file" not in check.kinds or not subjects:
        return []
    with database.read() as tx:
        files = files_of(tx, scope, subjects)
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
        drift = drift_of("file", file["id"], differs)
        found += [Difference(drift)] if drift else []
    if len(found) == len(files) >= MOST_GONE and all("file" in one.drift.differences for one in found):
        raise Unprocessable(f"none of {len(files)} files is in the storage: is it the right one, and mounted?")
    return found
