"""What operators did, under their names: written in the transaction of what was done, and never changed.

Nobody has to remember to write it down. Whoever lets an operator do something, the desk's API or a command, says once
who it is and what they asked for (an `Act`), and goes along with the transactions that follow (`database.witnessed`).
Whoever knows more, a reason or a number, writes the entry itself by `note_action`; then that is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billhook.store.database import Tx, after_commit, hearing_changes
from billhook.store.schema import Instant, metadata, new_id

operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),  # e.g. `dead_letter.discard`
    sa.Column("subject", sa.Text, nullable=False),  # the id of what it was done to, or a queue's name
    sa.Column("merchant_id", sa.Text),  # whose that is
    sa.Column("detail", sa.JSON, nullable=False),  # the reason, how many…
    sa.Index("ix_operator_actions_subject", "subject", "id"),
)


def note_action(
    tx: Tx,
    action: str,
    subject: str,
    *,
    by: str,
    now: datetime,
    merchant_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    row = {"id": new_id("act"), "at": now, "by": by, "action": action, "subject": subject}
    tx.execute(operator_actions.insert().values(**row, merchant_id=merchant_id, detail=dict(detail or {})))


def list_actions(
    tx: Tx, *, subject: str | None = None, before: str | None = None, limit: int = 50
) -> list[sa.RowMapping]:
    """Newest first: of all, or what was done to one thing."""
    query = sa.select(operator_actions).order_by(operator_actions.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(operator_actions.c.subject == subject)
    if before is not None:
        query = query.where(operator_actions.c.id < before)
    return list(tx.execute(query).mappings())


class Act:
    """What an operator does by one request or command. It may take several transactions: the first that changes
    anything holds the entry."""

    def __init__(
        self,
        action: str,
        *,
        by: str,
        now: Callable[[], datetime],
        subjects: Sequence[str] = (),
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """`subjects`: the ids that were named, the one that it is done to last. With none, it is done to what is
        made."""
        self._action = action
        self._by = by
        self._now = now
        self._subjects = subjects
        self._detail = detail
        self._noted = False

    @contextmanager
    def __call__(self, tx: Tx) -> Iterator[None]:
        """Go along with a transaction."""
        changes = _Changes()
        with hearing_changes(tx, changes.hear, changes.add):
            yield
        if changes.tables and not self._noted:
            if operator_actions not in changes.tables:
                self._note(tx, changes)
            after_commit(tx, self._is_noted)

    def _is_noted(self) -> None:
        self._noted = True

    def _note(self, tx: Tx, changes: _Changes) -> None:
        made = changes.made or {}
        subject = self._subject(made)
        named = next((one for one in (*self._subjects, subject) if one.startswith("mrc_")), None)
        merchant_id = named or made.get("merchant_id") or _owner(tx, changes.tables, subject)
        note_action(
            tx,
            self._action,
            subject,
            by=self._by,
            now=self._now(),
            merchant_id=merchant_id,
            detail={**(self._detail or {}), "changed": sorted(str(table.name) for table in changes.tables)},
        )

    def _subject(self, made: Mapping[str, Any]) -> str:
        if made and self._subjects and all(subject.startswith("mrc_") for subject in self._subjects):
            return str(made["id"])  # a merchant was named because what is made is the merchant's
        named = self._subjects[-1] if self._subjects else made.get("id")
        return str(named or "many")


class _Changes:
    """What a transaction changes."""

    def __init__(self) -> None:
        self.tables: dict[sa.Table, None] = {}
        self.made: Mapping[str, Any] | None = None
        """The first row that was added and has an id."""

    def hear(
        self, connection: Tx, statement: Any, many: Sequence[Mapping[str, Any]], one: Mapping[str, Any], options: Any
    ) -> None:
        if not isinstance(statement, (sa.Insert, sa.Update, sa.Delete)) or not isinstance(statement.table, sa.Table):
            return
        if isinstance(statement, sa.Insert):
            self.add(statement.table, many[0] if many else one or statement.compile(dialect=connection.dialect).params)
        else:
            self._add(statement.table)

    def add(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        """Rows were added, the first of them this one."""
        self._add(table)
        if self.made is None and row.get("id"):
            self.made = row

    def _add(self, table: sa.Table) -> None:
        if "id" in table.c:  # what has none is a counter, such as a provider's turns, and nobody's deed
            self.tables[table] = None


def _owner(tx: Tx, tables: Mapping[sa.Table, None], subject: str) -> str | None:
    """Whose the subject is, where a row of it was changed."""
    for table in tables:
        if "merchant_id" in table.c:
            owner: str | None = tx.execute(sa.select(table.c.merchant_id).where(table.c.id == subject)).scalar()
            if owner is not None:
                return owner
    return None
