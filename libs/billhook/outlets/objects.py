"""Object storage: files written once, under names that say what is in them.

A name is never given to other content, so writing is safe to repeat: whoever was killed half-way does it again, and two
who do it at once end with the same object.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from billhook.errors import SettingsError, TryAgain, Unprocessable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_BUCKET_SETTINGS: Final = frozenset({"endpoint", "region", "virtual_hosted_style_request"})

# One call ends within a minute or so, well inside the lease of whoever makes it; longer outages are its caller's.
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_TIMEOUT: Final = timedelta(seconds=20)
_RETRIES: Final = 2
_RETRY_FOR: Final = timedelta(seconds=40)


class ObjectDiffers(Unprocessable):
    """The name is taken by other content, or what is stored is no longer what was written."""


class ObjectMissing(Unprocessable):
    """There is no object of this name."""


class Objects(Protocol):
    def put_once(self, key: str, content: bytes) -> str:
        """Store an object, durable when this returns, and answer its SHA-256 in hex.

        The same content under the same key again is fine; other content raises ObjectDiffers. Raises TryAgain when the
        storage does not answer or is full.
        """

    def get(self, key: str, sha256: str) -> bytes:
        """The object as it was stored. Raises ObjectMissing, ObjectDiffers when it is not what was stored, TryAgain."""


def document_key(sha256: str) -> str:
    """The name of a PDF, from the SHA-256 of its content."""
    return f"documents/{sha256[:2]}/{sha256[2:]}.pdf"


def open_objects(url: str) -> Objects:
    """The storage a URL names. Nothing is read or written yet.

    `file:///var/lib/billhook/objects` is a directory. `s3://bucket/prefix` is a bucket of anything that speaks S3, with
    `?endpoint=https://…&region=…&virtual_hosted_style_request=true` where it is not Amazon's; credentials come from the
    environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, or the machine's role). Raises SettingsError.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as error:
        raise SettingsError(f"object storage: not a URL: {url!r}") from error
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1 and not options:
        return DirectoryObjects(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        if unknown := options.keys() - _BUCKET_SETTINGS:
            known = ", ".join(sorted(_BUCKET_SETTINGS))
            raise SettingsError(f"object storage: unknown setting {min(unknown)!r}; known are {known}")
        return BucketObjects(parts.netloc, parts.path.strip("/"), options)
    raise SettingsError("object storage: use file:///absolute/path or s3://bucket/prefix")


class DirectoryObjects:
    """Objects as files below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / ".staging"

    def put_once(self, key: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(key)
        staged = self._staging / secrets.token_hex(16)
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            # First the content reaches the disk under a name nobody reads; then it gets its real name, whole or not at
            # all and never over another file; then the directories, so that the name survives a power cut too.
            # Killed before the link: a stray file in .staging. Killed after: the next try finds the same content and
            # writes the directories.
            try:
                _write_through(staged, content)
                os.link(staged, path)
            except FileExistsError:
                if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                    raise ObjectDiffers(f"{key} is stored already, with other content") from None
            finally:
                staged.unlink(missing_ok=True)
            for directory in self._directories(path):
                _sync_directory(directory)
        except OSError as error:
            raise TryAgain(f"could not store {key} in {self._root}: {error.strerror}") from error
        return digest

    def get(self, key: str, sha256: str) -> bytes:
        try:
            content = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissing(f"{key} is not in {self._root}") from error
        except OSError as error:
            raise TryAgain(f"could not read {key} in {self._root}: {error.strerror}") from error
        return _verified(key, content, sha256)

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)

    def _directories(self, path: Path) -> Iterator[Path]:
        """From the file's own up to the one that holds the root, since each may have been made just now."""
        for directory in path.parents:
            yield directory
            if directory == self._root.parent:
                return


class BucketObjects:
    """Objects in an S3 bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str, options: dict[str, str]) -> None:
        self._name = f"s3://{bucket}/{prefix}".rstrip("/")
        client: ClientConfig = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
        config: S3Config = {}
        if endpoint := options.get("endpoint"):
            config["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if region := options.get("region"):
            config["region"] = region
        if virtual := options.get("virtual_hosted_style_request"):
            config["virtual_hosted_style_request"] = virtual == "true"
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                config=config,
                client_options=client,
                retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR},
            )
        except BaseError as error:
            raise SettingsError(f"object storage: {_sentence(error)}") from error

    def put_once(self, key: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        try:
            obstore.put(self._store, _checked(key), content, mode="create")
        except AlreadyExistsError:
            if hashlib.sha256(self._read(key)).hexdigest() != digest:
                raise ObjectDiffers(f"{key} is stored already, with other content") from None
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not store {key} in {self._name}: {_sentence(error)}") from error
        return digest

    def get(self, key: str, sha256: str) -> bytes:
        return _verified(key, self._read(key), sha256)

    def _read(self, key: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, _checked(key)).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise ObjectMissing(f"{key} is not in {self._name}") from error
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not read {key} in {self._name}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    """The first line: what follows is a dump of the client's insides."""
    return str(error).partition("\n")[0]


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an object's key: {key!r}")
    return key


def _verified(key: str, content: bytes, sha256: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ObjectDiffers(f"{key} is damaged: its content is not what was stored")
    return content


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
