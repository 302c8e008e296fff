"""One behaviour of object storage, wherever it is: files, and buckets of servers that differ in what they check."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import requests
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from outlets.buckets import BUCKET, Bucket, moto, s3rver

from billhook.errors import TryAgain
from billhook.outlets.objects import ObjectDiffers, ObjectMissing, Objects, document_key, open_objects

__all__ = ["moto", "s3rver"]

CONTENT = b"%PDF-1.4 an invoice"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = document_key(DIGEST)
NAME = "invoice-INV-0001.pdf"


@pytest.fixture(params=["moto", "s3rver"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix() -> str:
    """Of the test's own: the servers are shared."""
    return f"{secrets.token_hex(4)}/below"


@pytest.fixture(params=["files", "moto", "s3rver"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Objects:
    if request.param == "files":
        return open_objects(tmp_path.as_uri())
    bucket: Bucket = request.getfixturevalue(request.param)
    return bucket.open(prefix)


def test_what_is_put_is_what_is_got(objects: Objects) -> None:
    assert objects.put_once(KEY, CONTENT) == DIGEST
    assert objects.get(KEY, DIGEST) == CONTENT


def test_of_many_at_once_each_is_as_if_it_came_alone(objects: Objects) -> None:
    objects.put_once(KEY, CONTENT)
    taken = [("documents/new.pdf", b"new"), (KEY, CONTENT), (KEY, b"else"), ("documents/new.pdf", b"new")]
    new, same, other, again = objects.put_all(iter(taken))
    assert (new, same) == (again, DIGEST)
    assert isinstance(other, ObjectDiffers)
    assert (objects.find("documents/new.pdf"), objects.find(KEY)) == (b"new", CONTENT)
    assert objects.put_all([]) == []


def test_the_same_again_is_fine_and_other_content_is_refused(objects: Objects) -> None:
    objects.put_once(KEY, CONTENT)
    assert objects.put_once(KEY, CONTENT) == DIGEST
    with pytest.raises(ObjectDiffers, match="other content"):
        objects.put_once(KEY, b"something else")
    assert objects.get(KEY, DIGEST) == CONTENT


def test_what_is_not_what_was_stored_is_not_handed_out(objects: Objects) -> None:
    objects.put_once(KEY, CONTENT)
    with pytest.raises(ObjectDiffers, match="damaged"):
        objects.get(KEY, hashlib.sha256(b"what was stored").hexdigest())


def test_what_is_not_there_is_said_to_be_missing(objects: Objects) -> None:
    with pytest.raises(ObjectMissing, match="documents/"):
        objects.get(KEY, DIGEST)


def test_files_have_no_addresses_to_hand_out(tmp_path: Path) -> None:
    assert open_objects(tmp_path.as_uri()).presigned(KEY, 60, NAME) is None


def test_an_address_downloads_the_file_under_its_name_and_without_a_key(bucket: Bucket, prefix: str) -> None:
    objects = bucket.open(prefix)
    objects.put_once(KEY, CONTENT)
    url = objects.presigned(KEY, 60, NAME)
    assert url is not None
    answer = requests.get(url, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.content == CONTENT
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{NAME}"'


def test_of_a_bucket_that_browsers_cannot_reach_no_address_is_handed_out(bucket: Bucket, prefix: str) -> None:
    assert bucket.open(prefix, options="&presign=false").presigned(KEY, 60, NAME) is None


def test_what_is_signed_is_what_amazon_asks_for(bucket: Bucket, prefix: str) -> None:
    url = bucket.open(prefix).presigned(KEY, 60, NAME)
    assert url is not None
    unsigned, _, signature = url.partition("&X-Amz-Signature=")
    request = AWSRequest("GET", unsigned)
    request.context["timestamp"] = dict(parse_qsl(unsigned))["X-Amz-Date"]
    signer = S3SigV4QueryAuth(Credentials(bucket.key_id, bucket.secret), "s3", "us-east-1", 60)
    signed = signer.string_to_sign(request, signer.canonical_request(request))
    assert signer.signature(signed, request) == signature


def test_an_address_ends(s3rver: Bucket, prefix: str) -> None:
    objects = s3rver.open(prefix)
    objects.put_once(KEY, CONTENT)
    url = objects.presigned(KEY, 60, NAME)
    assert url is not None
    long_ago = re.sub("X-Amz-Date=....", "X-Amz-Date=2020", url)
    assert requests.get(long_ago, timeout=30).status_code == 403


def test_the_bucket_is_open_to_nobody(moto: Bucket, prefix: str) -> None:
    moto.open(prefix).put_once(KEY, CONTENT)
    assert requests.get(f"{moto.address}/{BUCKET}/{prefix}/{KEY}", timeout=30).status_code == 403


def test_credentials_that_are_refused_are_said_and_tried_again(s3rver: Bucket, prefix: str) -> None:
    objects = s3rver.open(prefix, key_id="nobody")
    with pytest.raises(TryAgain, match=f"could not .* s3://{BUCKET}/{prefix}.*403"):
        objects.put_once(KEY, CONTENT)
    with pytest.raises(TryAgain, match="403"):
        objects.get(KEY, DIGEST)
