"""Object storage: files written once, under names that say what is in them, and deleted when their time is over.

A name is never given to other content, so writing is safe to repeat: after a kill half-way it is done again, and two
processes that write at once end with the same object.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import mimetypes
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from billhook.errors import SettingsError, TryAgain, Unprocessable
from billhook.outlets.syncing import AT_ONCE, sync_all

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_BUCKET_SETTINGS: Final = frozenset({"endpoint", "region", "virtual_hosted_style_request", "presign"})

# One call ends within a minute or so, well inside the lease of whoever makes it; longer outages are its caller's.
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_TIMEOUT: Final = timedelta(seconds=20)
_RETRIES: Final = 2
_RETRY_FOR: Final = timedelta(seconds=40)
_PUTS_AT_ONCE: Final = 8
"""Of a batch. A bucket answers after tens of milliseconds, in which an engine draws several documents."""


class ObjectDiffers(Unprocessable):
    """The name is taken by other content, or what is stored is no longer what was written."""


class ObjectMissing(TryAgain):
    """There is no object of this name: not yet, not in this copy of a bucket, or not while its disk is not mounted."""


class Objects(Protocol):
    def put_once(self, key: str, content: bytes) -> str:
        """Store an object, durable when this returns, and answer its SHA-256 in hex.

        The same content under the same key again is fine; other content raises ObjectDiffers. Raises TryAgain when the
        storage does not answer or is full.
        """

    def put_all(self, contents: Iterable[tuple[str, bytes]]) -> list[str | ObjectDiffers]:
        """As `put_once`, many at a time: contents are taken as they come, and none counts as stored before this
        returns. Raises TryAgain for all of them, once it is known; what is still to come is left then."""

    def get(self, key: str, sha256: str) -> bytes:
        """The object as it was stored. Raises ObjectMissing, ObjectDiffers when it is not what was stored, TryAgain."""

    def find(self, key: str) -> bytes | None:
        """What is stored under a key, whatever it is. Raises TryAgain."""

    def set_aside(self, key: str) -> None:
        """Give what is stored under a key another name, so that it can be stored again: what is there is damaged, and
        may be evidence. Nothing where there is nothing. Raises TryAgain."""

    def delete(self, key: str) -> None:
        """Delete what is stored under a key, if there is anything. Raises TryAgain."""

    def presigned(self, key: str, seconds: int, name: str) -> str | None:
        """An address that gives the object to whoever asks within so many seconds, to be saved as `name`.

        None where the storage has no such addresses: then the caller has to serve the object itself. Whether there is
        an object is not looked at. Raises TryAgain.
        """


def document_key(sha256: str) -> str:
    """The name of a PDF, from the SHA-256 of its content."""
    return f"documents/{sha256[:2]}/{sha256[2:]}.pdf"


def document_name(kind: str, number: str) -> str:
    """What people save a PDF as, such as `credit-note-CN-0001.pdf`. A number may have anything in it, a name not."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", number)[:100].strip("-")
    return "-".join(filter(None, (kind.replace("_", "-"), cleaned))) + ".pdf"


def open_objects(url: str, environment: Mapping[str, str] = os.environ) -> Objects:
    """The storage a URL names. Nothing is read or written yet.

    `file:///var/lib/billhook/objects` is a directory. `s3://bucket/prefix` is a bucket of anything that speaks S3, with
    `?endpoint=https://…&region=…&virtual_hosted_style_request=true` where it is not Amazon's, and `presign=false` where
    browsers cannot reach it; credentials come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    `AWS_SESSION_TOKEN`), or from the machine's role. Raises SettingsError.
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
        return BucketObjects(parts.netloc, parts.path.strip("/"), options, environment)
    raise SettingsError("object storage: use file:///absolute/path or s3://bucket/prefix")


@dataclass(frozen=True, slots=True)
class _Laid:
    """A file that waits for its name."""

    key: str
    path: Path
    staged: Path
    digest: str


class DirectoryObjects:
    """Objects as files below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / ".staging"
        self._syncs = ThreadPoolExecutor(AT_ONCE, "sync")  # each thread starts when it is needed first
        self._synced: set[Path] = set()
        """Directories whose own names are on the disk: syncing what is above them once in a process is enough."""

    def put_once(self, key: str, content: bytes) -> str:
        [answer] = self.put_all([(key, content)])
        if isinstance(answer, ObjectDiffers):
            raise answer
        return answer

    def put_all(self, contents: Iterable[tuple[str, bytes]]) -> list[str | ObjectDiffers]:
        # First the contents reach the disk under names nobody reads; then each gets its real name, whole or not at all
        # and never over another file; then the directories, so that the names survive a power cut too. Each of the two
        # waits is one for all. Killed before the links: stray files in .staging. Killed after: the next try finds the
        # same contents and writes the directories.
        laid: list[_Laid] = []
        try:
            for key, content in contents:
                laid.append(_Laid(key, self._path(key), self._staging / secrets.token_hex(16), _digest(content)))
                with self._storing(key):
                    self._lay(laid[-1].staged, content)
            if not laid:
                return []
            with self._storing(laid[-1].key):
                sync_all([file.staged for file in laid], self._syncs)
                answers = [self._named(file) for file in laid]
                directories = {directory for file in laid for directory in self._unsynced(file.path)}
                sync_all(sorted(directories), self._syncs)
        finally:
            for file in laid:
                with contextlib.suppress(OSError):
                    file.staged.unlink()
        self._synced.update(file.path.parent for file in laid)
        return answers

    @contextlib.contextmanager
    def _storing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._synced.clear()  # somebody may have taken a directory away: the next try makes it again
            raise TryAgain(f"could not store {key}: {error.strerror}") from error

    def _lay(self, path: Path, content: bytes) -> None:
        if not self._synced:
            self._staging.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)

    def _named(self, file: _Laid) -> str | ObjectDiffers:
        if file.path.parent not in self._synced:
            file.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.staged, file.path)
        except FileExistsError:
            if _digest(file.path.read_bytes()) != file.digest:
                return ObjectDiffers(f"{file.key} is stored already, with other content")
        return file.digest

    def get(self, key: str, sha256: str) -> bytes:
        return _verified(key, self._read(key), sha256)

    def find(self, key: str) -> bytes | None:
        try:
            return self._read(key)
        except ObjectMissing:
            return None

    def _read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissing(f"{key} is not in the storage") from error
        except OSError as error:
            raise TryAgain(f"could not read {key}: {error.strerror}") from error

    def set_aside(self, key: str) -> None:
        path = self._path(key)
        try:
            path.rename(path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise TryAgain(f"could not rename {key}: {error.strerror}") from error

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise TryAgain(f"could not delete {key}: {error.strerror}") from error

    def presigned(self, key: str, seconds: int, name: str) -> str | None:
        return None

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)

    def _unsynced(self, path: Path) -> Iterator[Path]:
        """The file's directory and, where that is new to this process, all up to the one that holds the root, since
        each may have been made just now."""
        for directory in path.parents:
            yield directory
            if directory == self._root.parent or path.parent in self._synced:
                return


class BucketObjects:
    """Objects in an S3 bucket, below a prefix. The bucket needs no public access, and should have none."""

    def __init__(self, bucket: str, prefix: str, options: dict[str, str], environment: Mapping[str, str]) -> None:
        self._name = f"s3://{bucket}/{prefix}".rstrip("/")
        self._presign = options.get("presign") != "false"
        self._secret = environment.get("AWS_SECRET_ACCESS_KEY", "")
        client: ClientConfig = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
        config: S3Config = {}
        if self._secret:
            config["access_key_id"] = environment.get("AWS_ACCESS_KEY_ID", "")
            config["secret_access_key"] = self._secret
            if token := environment.get("AWS_SESSION_TOKEN"):
                config["session_token"] = token
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

    def put_all(self, contents: Iterable[tuple[str, bytes]]) -> list[str | ObjectDiffers]:
        with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
            asked = []
            for key, content in contents:
                asked.append(pool.submit(self._answered, key, content))
                if any(one.done() and one.exception() is not None for one in asked):
                    break
        return [one.result() for one in asked]

    def _answered(self, key: str, content: bytes) -> str | ObjectDiffers:
        try:
            return self.put_once(key, content)
        except ObjectDiffers as error:
            return error

    def put_once(self, key: str, content: bytes) -> str:
        digest = _digest(content)
        # Servers that speak S3 without `If-None-Match` replace an object when told to create it. So it is looked for
        # first, everywhere. There, of two who write at the very same time the later one wins; of what is named by its
        # content both are the same.
        try:
            stored = self._read(key)
        except ObjectMissing:
            if self._create(key, content):
                return digest
            stored = self._read(key)
        if _digest(stored) != digest:
            raise ObjectDiffers(f"{key} is stored already, with other content")
        return digest

    def get(self, key: str, sha256: str) -> bytes:
        return _verified(key, self._read(key), sha256)

    def find(self, key: str) -> bytes | None:
        try:
            return self._read(key)
        except ObjectMissing:
            return None

    def set_aside(self, key: str) -> None:
        try:
            obstore.rename(self._store, _checked(key), f"{key}.damaged-{secrets.token_hex(4)}")
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not rename {key} in {self._name}: {_sentence(error)}") from error

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, _checked(key))
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not delete {key} in {self._name}: {_sentence(error)}") from error

    def presigned(self, key: str, seconds: int, name: str) -> str | None:
        if not self._presign:
            return None
        try:
            url = obstore.sign(self._store, "GET", _checked(key), timedelta(seconds=seconds))
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not sign for {key} in {self._name}: {_sentence(error)}") from error
        # The secret of a machine's role is the client's alone; files are then named as the objects are.
        return _saved_as(name, url, self._secret) if self._secret else url

    def _create(self, key: str, content: bytes) -> bool:
        """False if there is an object of this name by now."""
        media_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
        try:
            obstore.put(self._store, _checked(key), content, mode="create", attributes={"Content-Type": media_type})
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not store {key} in {self._name}: {_sentence(error)}") from error
        return True

    def _read(self, key: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, _checked(key)).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise ObjectMissing(f"{key} is not in {self._name}") from error
        except (BaseError, OSError) as error:
            raise TryAgain(f"could not read {key} in {self._name}: {_sentence(error)}") from error


def _saved_as(name: str, url: str, secret: str) -> str:
    """A presigned address that makes a browser save the file, under this name. The client cannot ask for that when it
    signs, and what is asked for must be signed: Signature Version 4 over the address with the name in it."""
    parts = urlsplit(url)
    query = {field: value for field, value in parse_qsl(parts.query) if field != "X-Amz-Signature"}
    query["response-content-disposition"] = f'attachment; filename="{_checked(name)}"'
    canonical = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
    request = f"GET\n{parts.path}\n{canonical}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    _, *scope = query["X-Amz-Credential"].split("/")
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    digest = hashlib.sha256(request.encode()).hexdigest()
    signed = "\n".join((query["X-Amz-Algorithm"], query["X-Amz-Date"], "/".join(scope), digest))
    signature = hmac.digest(key, signed.encode(), "sha256").hex()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{canonical}&X-Amz-Signature={signature}"


def _sentence(error: Exception) -> str:
    """The first line: what follows is a dump of the client's insides."""
    return str(error).partition("\n")[0]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an object's key: {key!r}")
    return key


def _verified(key: str, content: bytes, sha256: str) -> bytes:
    if _digest(content) != sha256:
        raise ObjectDiffers(f"{key} is damaged: its content is not what was stored")
    return content
