"""A disk without room refuses what it cannot keep, in words, and works again when there is room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from store.databases import NOW, lay_ledger

from billhook.errors import TryAgain
from billhook.outlets.objects import DirectoryObjects, document_key, open_objects
from billhook.store import merchants
from billhook.store.database import Database, is_store_away

KEY = document_key("a" * 64)


def test_a_ledger_without_room_keeps_what_it_has_and_takes_more_when_there_is_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay_ledger(tmp_path / "billhook.db")
    database = Database(f"sqlite:///{tmp_path}/billhook.db")
    with database.read() as tx:
        pages = int(tx.exec_driver_sql("PRAGMA page_count").scalar_one())

    def fill(most: int) -> int:
        added = 0
        while added < 2_000:
            with database.begin() as tx:
                tx.exec_driver_sql(f"PRAGMA max_page_count = {most}")
                merchants.create_merchant(tx, "x" * 200, NOW)
            added += 1
        return added

    for _ in range(3):
        with pytest.raises(sa.exc.OperationalError, match="full") as full:
            fill(pages + 3)
        assert not is_store_away(full.value), "it answers, and others may fit"
        with database.read() as tx:
            before = len(merchants.list_merchants(tx, limit=3_000))
    assert 0 < before < 2_000
    with database.begin() as tx:
        tx.exec_driver_sql("PRAGMA max_page_count = 1000000")
        merchants.create_merchant(tx, "room again", NOW)
    with database.read() as tx:
        assert len(merchants.list_merchants(tx, limit=3_000)) == before + 1
    said = [record.getMessage().rpartition(" is ") for record in caplog.records]
    assert said == [("the database, for writing,", " is ", word) for word in ("away", "back")], "once, by nobody else"
    database.close()


def test_a_storage_without_room_is_asked_again_and_has_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_objects(tmp_path.as_uri())

    def full(self: DirectoryObjects, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DirectoryObjects, "_lay", full)
    with pytest.raises(TryAgain, match="No space left"):
        objects.put_once(KEY, b"%PDF-1.7")
    monkeypatch.undo()
    assert objects.find(KEY) is None
    assert list((tmp_path / ".staging").iterdir()) == []
    objects.put_once(KEY, b"%PDF-1.7")
    assert objects.find(KEY) == b"%PDF-1.7"
