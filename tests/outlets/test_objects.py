"""Objects: written once, the same for ever, and found damaged rather than believed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from billhook.errors import SettingsError, TryAgain
from billhook.outlets.objects import ObjectDiffers, ObjectMissing, Objects, document_key, document_name, open_objects
from billhook.outlets.syncing import AT_ONCE

CONTENT = b"%PDF-1.4 an invoice"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = document_key(DIGEST)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "var" / "the objects"


@pytest.fixture
def objects(root: Path) -> Objects:
    return open_objects(root.as_uri())


def test_what_is_put_is_what_is_got(objects: Objects, root: Path) -> None:
    assert objects.put_once(KEY, CONTENT) == DIGEST
    assert objects.get(KEY, DIGEST) == CONTENT
    assert (root / "documents" / DIGEST[:2] / f"{DIGEST[2:]}.pdf").read_bytes() == CONTENT


def test_putting_the_same_again_is_fine_and_other_content_is_not(objects: Objects, root: Path) -> None:
    objects.put_once(KEY, CONTENT)
    assert objects.put_once(KEY, CONTENT) == DIGEST
    with pytest.raises(ObjectDiffers, match="other content"):
        objects.put_once(KEY, b"something else")
    assert objects.get(KEY, DIGEST) == CONTENT
    assert list((root / ".staging").iterdir()) == []


def test_of_many_writers_at_once_one_content_wins_for_all(objects: Objects) -> None:
    def put(number: int) -> bool:
        try:
            return objects.put_once("documents/race", b"%d" % (number % 2)) is not None
        except ObjectDiffers:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(32)))
    assert won in ([n % 2 == 0 for n in range(32)], [n % 2 == 1 for n in range(32)])


@pytest.mark.parametrize(
    ("number", "name"),
    [("FV-01/02/2019", "invoice-FV-01-02-2019.pdf"), ("№ 7/é", "invoice-7.pdf"), ("/請求", "invoice.pdf")],
)
def test_a_file_is_saved_under_its_number_whatever_is_in_that(number: str, name: str) -> None:
    assert document_name("invoice", number) == name


def test_damage_is_found_when_reading(objects: Objects, root: Path) -> None:
    objects.put_once(KEY, CONTENT)
    (root / KEY).write_bytes(CONTENT[:-1])
    with pytest.raises(ObjectDiffers, match="damaged"):
        objects.get(KEY, DIGEST)


def test_what_a_killed_writer_left_is_in_nobodys_way(objects: Objects, root: Path) -> None:
    (root / ".staging").mkdir(parents=True)
    (root / ".staging" / "left").write_bytes(CONTENT[:4])
    with pytest.raises(ObjectMissing):
        objects.get(KEY, DIGEST)
    assert objects.put_once(KEY, CONTENT) == DIGEST


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".staging/x", "a\\b", "a\x00", "a\n"]
)
def test_a_key_cannot_lead_out_of_the_storage(objects: Objects, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        objects.put_once(key, CONTENT)
    with pytest.raises(ValueError, match="key"):
        objects.get(key, DIGEST)


def test_a_disk_that_does_not_take_it_is_tried_again(root: Path) -> None:
    root.parent.mkdir()
    root.write_text("a file where the directory should be")
    with pytest.raises(TryAgain, match="could not store"):
        open_objects(root.as_uri()).put_once(KEY, CONTENT)


def test_a_batch_is_synced_at_once_its_contents_before_their_names_and_those_before_the_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [b"%%PDF %d" % number for number in range(AT_ONCE)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    keys = list(map(document_key, digests))
    together = threading.Barrier(AT_ONCE, timeout=30)
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        if len(synced) < AT_ONCE:
            together.wait()  # none of them waits for another to end
        synced.append(os.path.realpath(f"/dev/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    named: list[int] = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda *ends: (named.append(len(synced)), link(*ends)))
    objects = open_objects(root.as_uri())
    assert objects.put_all(zip(keys, contents, strict=True)) == digests
    assert named == [AT_ONCE] * AT_ONCE
    if sys.platform == "linux":
        files, directories = synced[:AT_ONCE], synced[AT_ONCE:]
        assert {Path(file).parent for file in files} == {root / ".staging"}
        assert set(directories) >= {str((root / key).parent) for key in keys} | {str(root), str(root.parent)}
    assert [objects.get(key, digest) for key, digest in zip(keys, digests, strict=True)] == contents


def test_what_did_not_reach_the_disk_has_no_name(objects: Objects, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("billhook.outlets.objects.sync_all", broken)
        with pytest.raises(TryAgain, match="Input/output error"):
            objects.put_all([(KEY, CONTENT), ("documents/other.pdf", b"other")])
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert objects.put_once(KEY, CONTENT) == DIGEST


def test_after_a_bucket_did_not_take_one_the_rest_of_a_batch_is_not_even_made() -> None:
    objects = open_objects("s3://bucket/prefix?endpoint=http://127.0.0.1:9&region=auto")
    made = 0

    def contents() -> Iterator[tuple[str, bytes]]:
        nonlocal made
        while made < 1_000:
            made += 1
            yield f"documents/{made}.pdf", CONTENT
            time.sleep(0.05)

    with pytest.raises(TryAgain, match="s3://bucket/prefix"):
        objects.put_all(contents())
    assert made < 1_000


def test_a_bucket_that_does_not_answer_is_tried_again() -> None:
    objects = open_objects("s3://bucket/prefix?endpoint=http://127.0.0.1:9&region=auto")
    with pytest.raises(TryAgain, match="s3://bucket/prefix"):
        objects.put_once(KEY, CONTENT)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "objects",
        "file://relative/path",
        "file:///",
        "ftp://x/y",
        "s3://",
        "s3://b?colour=blue",
        "s3://b?x",
        "http://[",
    ],
)
def test_an_address_that_cannot_work_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError, match="object storage"):
        open_objects(url)


def test_a_directory_that_was_taken_away_is_made_again(objects: Objects, root: Path) -> None:
    objects.put_once(KEY, CONTENT)
    shutil.rmtree(root)
    with pytest.raises(TryAgain):
        objects.put_once(KEY, CONTENT)
    assert objects.put_once(KEY, CONTENT) == DIGEST
    assert objects.get(KEY, DIGEST) == CONTENT
