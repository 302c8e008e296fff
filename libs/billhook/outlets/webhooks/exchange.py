"""One request and its answer on one libcurl handle, and what became of it.

Every promise about where a request goes and what an answer may cost is a setting or a callback here: libcurl asks
before it looks a name up and before it connects, and hands an answer over piece by piece, so that each can be refused.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Protocol

import pycurl

from billhook.outlets.webhooks.resolver import CACHE_SECONDS, Forbidden
from billhook.outlets.webhooks.response import HEADERS_KEPT, Response, kept, one_line, printable
from billhook.rules.addresses import Address
from billhook.rules.delivery import outcome_class

CONNECT_SECONDS = 5.0
"""Of the deadline, for TCP and TLS: nobody waits long for where nobody is."""

KEEPALIVE_SECONDS = 4
"""How long an idle connection is used again. Node, Uvicorn and Apache close theirs after 5 s, and a request that
crosses with the close is lost. Whoever is written to more rarely pays a handshake each time; the busy ones never do."""

RECEIVE_BUFFER = 64 * 1024
"""Bytes that the kernel takes in for a connection before we ask for them. It slows down whoever sends more than it is
asked for, and bounds what is parsed in one go, while all others wait."""

BODY_LIMIT = 64 * 1024
"""Bytes of an answer that are read; the connection is then closed, however much more would come."""

INTERIM_LIMIT = 16
"""1xx answers before the real one. Honest servers send one or two; parsing them without end would fill a processor."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: .*)?\r?\n", re.DOTALL)
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*:|[ \t]")  # a token of RFC 9110 section 5.6.2
_LENGTH: Final = re.compile(
    rb"\s*(\d{1,18})(?:\s*,\s*\1)*\s*"
)  # one, however often a proxy says it (RFC 9110 section 8.6)
_BLANK: Final = (b"\r\n", b"\n")

_EVERY_REQUEST: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "Content-Type": "application/octet-stream"}
_NO_EXPECT: Final = "Expect:"
"""Without it libcurl would first ask a server whether it agrees to a body of a megabyte."""

_TLS_ERRORS: Final = (
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_ISSUER_ERROR,
)
_BROKEN_OFF: Final = (pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE)
_CUT_OFF: Final = "the connection was closed before the answer was complete"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be posted."""

    url: str
    headers: dict[str, str]
    body: bytes
    deadline_seconds: float
    retry: bool = False
    """Whether an attempt before this one failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    host: str
    port: int
    secure: bool
    is_address: bool
    """The host is an IP address, and no name has to be looked up."""
    wire_url: bytes
    path: bytes
    """What the request line says: libcurl would write the percent-encoding of a path in capitals."""


Field = tuple[bytes, bytes]
_Head = tuple[int | None, tuple[Field, ...], str | None]
"""The status, the header fields, and what is wrong with them that libcurl lets pass."""


class Surroundings(Protocol):
    """What an exchange asks its client during a transfer."""

    def vetted(self, exchange: Exchange, address: Address) -> bool:
        """Whether this address was found for the host lately. Raises `Forbidden` where nobody may connect to it."""


class _Handed:
    """A socket for libcurl, which works with a duplicate of it. Ours is closed as soon as that is made."""

    def __init__(self, made: socket.socket) -> None:
        self._made = made

    def fileno(self) -> int:
        return self._made.fileno()

    def __del__(self) -> None:
        self._made.close()


class Exchange:
    """A handle of libcurl, used for one request after the other."""

    def __init__(self, around: Surroundings, ca_path: str) -> None:
        self._around = around
        self.curl = curl = pycurl.Curl()
        self._url = b""
        self._milliseconds = 0
        self._takes_kept = True
        for option, value in (
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROXY, ""),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
            (pycurl.CAINFO, ca_path),
            (pycurl.OPT_CERTINFO, 1),
            (pycurl.CONNECTTIMEOUT_MS, int(CONNECT_SECONDS * 1000)),
            (pycurl.MAXAGE_CONN, KEEPALIVE_SECONDS),
            (pycurl.DNS_CACHE_TIMEOUT, CACHE_SECONDS),
            (pycurl.POST, 1),
            (pycurl.USERAGENT, ""),  # the caller sets its own
            (pycurl.HEADERFUNCTION, self._on_header),
            (pycurl.WRITEFUNCTION, self._on_body),
            (pycurl.OPENSOCKETFUNCTION, self._on_open),
            (pycurl.RESOLVER_START_FUNCTION, self._on_resolve),
            (pycurl.PREREQFUNCTION, self._on_ready),
        ):
            curl.setopt(option, value)

    def begin(self, request: Request, target: Target, done: Callable[[Response], None], since: float) -> None:
        """Take up a request, which has waited `since` then (`time.perf_counter()`)."""
        self.request, self.target, self.done = request, target, done
        self.started = since
        self.rounds = 0

    @property
    def seconds_left(self) -> float:
        return self.request.deadline_seconds - (time.perf_counter() - self.started)

    def prepare(self, *, fresh: bool, addresses: frozenset[Address] | None) -> None:
        """Make the handle ready to go, for the first time or once more: nothing of the request was sent so far.

        `fresh`: not over a kept connection; `addresses`: where the host is, as it was found for this request. Raises
        what libcurl does not take.
        """
        curl, request, target = self.curl, self.request, self.target
        self.rounds += 1
        self.addresses = addresses
        self.unresolved = False
        self._refusal: str | None = None
        self._trouble: int | None = None
        self._nameless = self._sent = self._again = False
        self._fresh = False
        self.local_port: int | None = None
        self._lines: list[bytes] = []
        self._kept = self._heads = 0
        self._ended = False
        self._head: _Head = (None, (), None)
        self._retry_after: bytes | None = None
        self._body: list[bytes] = []
        self._read = 0
        self._full = False
        if target.wire_url != self._url:
            curl.setopt(pycurl.URL, target.wire_url)
            curl.setopt(pycurl.REQUEST_TARGET, target.path)
            self._url = target.wire_url
        seconds = request.deadline_seconds if self.rounds == 1 else self.seconds_left
        milliseconds = max(1, int(seconds * 1000))
        if milliseconds != self._milliseconds:
            curl.setopt(pycurl.TIMEOUT_MS, milliseconds)
            self._milliseconds = milliseconds
        if fresh == self._takes_kept:
            curl.setopt(pycurl.FRESH_CONNECT, int(fresh))
            self._takes_kept = not fresh
        if addresses is not None:
            where = ",".join(f"[{address}]" if address.version == 6 else str(address) for address in addresses)
            curl.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{where}"])
        lines = [f"{name}: {value}" for name, value in (_EVERY_REQUEST | request.headers).items()]
        lines.append(_NO_EXPECT)
        curl.setopt(pycurl.HTTPHEADER, lines)
        curl.setopt(pycurl.POSTFIELDS, request.body)

    # What libcurl asks and tells in the midst of its work.

    def _on_resolve(self, *_: object) -> int:
        """It is about to look a host up by itself. It never does: the transfer ends, and begins anew with addresses."""
        if self._sent:
            self._again = True
            return 1
        if self.target.is_address:
            return 0
        self.unresolved = True
        return 1

    def _on_open(self, _: int, target: Any) -> _Handed | int:
        """The final check, of the very address that is about to be connected to."""
        if self._sent:
            self._again = True
            return pycurl.SOCKET_BAD
        try:
            if not self._around.vetted(self, ip_address(target.addr[0].partition("%")[0])):
                self.unresolved = True
                return pycurl.SOCKET_BAD
        except Forbidden as why:
            self._refusal = str(why)
            return pycurl.SOCKET_BAD
        try:
            made = socket.socket(target.family, target.socktype, target.protocol)
        except OSError as error:  # no more files may be open, or there is no IPv6
            self._trouble = error.errno
            return pycurl.SOCKET_BAD
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._fresh = True
        return _Handed(made)

    def _on_ready(self, _address: str, _local: str, _port: int, local_port: int) -> int:
        """A connection stands, and nothing has been sent on it yet."""
        if self._sent:
            # A kept connection broke off, and libcurl wants to send the request again, on another one. Nobody would
            # count that, and the receiver may have had it.
            self._again = True
            return pycurl.PREREQFUNC_ABORT
        if self.target.secure and self._fresh and not self._names_itself():
            self._nameless = True
            return pycurl.PREREQFUNC_ABORT
        self._sent = True
        self.local_port = local_port
        return pycurl.PREREQFUNC_OK

    def _names_itself(self) -> bool:
        """Whether the certificate says in its SAN whose it is. libcurl takes a common name too; RFC 9525 does not."""
        chain = self.curl.getinfo(pycurl.INFO_CERTINFO)
        return bool(chain) and any(field[0] == "X509v3 Subject Alternative Name" for field in chain[0])

    def _on_header(self, line: bytes) -> int | None:
        if line.startswith(b"HTTP/"):
            self._heads += 1
            self._lines.clear()
            self._kept = 0
            if self._heads > INTERIM_LIMIT + 1:
                return -1
        elif self._ended:
            return None  # a trailer: it belongs to the body, which is whole without it (RFC 9112 section 7.1.2)
        if self._kept <= HEADERS_KEPT:
            self._lines.append(line)
            self._kept += len(line)
        elif self._retry_after is None and line[:12].lower() == b"retry-after:":
            self._retry_after = line
        self._ended = line in _BLANK
        if self._ended:
            self._head = _read_head(tuple(self._lines))
            status, _, amiss = self._head
            if amiss is not None or status == 101:
                return -1  # whatever follows: it would be taken for a body that ends with the connection
        return None

    def _on_body(self, piece: bytes) -> int | None:
        room = BODY_LIMIT - self._read
        self._read += len(piece)
        if len(piece) > room:
            self._body.append(piece[:room])
            self._full = True  # its status counts; the connection is closed, for there may be no end to it
            return -1
        self._body.append(piece)
        return None

    # What became of it.

    @property
    def breaks_off(self) -> bool:
        """Whether more may come on its connection, which is not kept."""
        return self._full or any(
            line[:11].lower() == b"connection:" and b"close" in line.lower() for line in self._lines
        )

    def response(self, code: int = 0, message: str = "") -> Response:
        """The answer, or why there is none. `code` and `message` are libcurl's; 0 if it found nothing amiss."""
        status, fields, amiss = self._head
        if code and not (code == pycurl.E_WRITE_ERROR and self._full):
            outcome, error = self._classified(code, message)
        elif not self._ended or status is None:
            outcome, error = "reset", _CUT_OFF
        else:
            outcome, error = outcome_class(status), None
        if status is not None and (status == 101 or not 100 <= status < 600) and outcome != "timeout":
            outcome, error = "protocol", f"{status} is no status to answer with"
        if amiss is not None:
            outcome, error = "protocol", f"the answer is not HTTP: {amiss}"
        if self._again:
            outcome, error = "reset", _CUT_OFF
        if self._heads > INTERIM_LIMIT + 1:
            outcome, error = "protocol", "the answer is not HTTP: more answers than a request has"
        if amiss is not None or (status is not None and 100 <= status < 200 and status != 101):
            status, fields = None, ()
        return self.failure(outcome, error, status, fields)

    def failure(
        self, outcome: str, error: str | None, status: int | None = None, fields: tuple[Field, ...] = ()
    ) -> Response:
        """A response with what has come so far."""
        retry_after = next((value for name, value in fields if name.lower() == b"retry-after"), None)
        if retry_after is None and self._retry_after is not None:
            retry_after = self._retry_after[12:].strip()
        return Response(
            outcome,
            status,
            None if error is None else one_line(error),
            None if retry_after is None else printable(retry_after.decode("utf-8", "surrogateescape")),
            kept(fields),
            b"".join(self._body),
            int((time.perf_counter() - self.started) * 1000),
            self._fresh and self._sent and not self._again,
        )

    def _classified(self, code: int, message: str) -> tuple[str, str]:
        """The outcome that libcurl's error is, and a sentence for whoever looks after the endpoint."""
        if self._refusal is not None:
            return "refused", f"billhook does not connect there: {self._refusal}"
        if self._nameless:
            return "tls", "the certificate is not valid: it has no subject alternative name (SAN)"
        system = self.curl.getinfo(pycurl.OS_ERRNO) or self._trouble
        if code == pycurl.E_OPERATION_TIMEDOUT:
            if self.seconds_left > 0.05 and not self._sent:
                return "timeout", f"no connection within {CONNECT_SECONDS:g} s"
            return "timeout", f"no complete answer within {self.request.deadline_seconds:g} s"
        if code == pycurl.E_COULDNT_CONNECT and system == errno.ECONNRESET:
            return "reset", _CUT_OFF  # there was a connection: it broke off before libcurl saw it stand
        if code == pycurl.E_COULDNT_CONNECT:
            # Not the address, which may be of an inner network that is allowed.
            return "connect", f"no connection: {os.strerror(system) if system else 'no address answers'}"
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            return "tls", f"the certificate is not valid: {message.partition(': ')[2] or message}"
        if code in _TLS_ERRORS:
            if system in (errno.ECONNRESET, errno.EPIPE) or "unexpected eof" in message or "SYSCALL" in message:
                return "reset", "the connection was closed before the TLS handshake was complete"
            return "tls", f"TLS failed: {message.lower()}"
        if code in _BROKEN_OFF and "SSL routines" in message and "unexpected eof" not in message:
            return "tls", f"TLS failed: {message.lower()}"
        if code in _BROKEN_OFF and "chunk hex" not in message:
            return "reset", _CUT_OFF
        if code == pycurl.E_URL_MALFORMAT:
            return "url", f"not a URL that can be posted to: {message}"
        return "protocol", f"the answer is not HTTP: {message or pycurl_name(code)}"


def pycurl_name(code: int) -> str:
    return "its head is too large" if code == 100 else f"error {code} of libcurl"


@lru_cache(maxsize=64)  # an endpoint answers alike within a second
def _read_head(lines: tuple[bytes, ...]) -> _Head:
    """The status, the header fields, and what is wrong with them that libcurl lets pass."""
    matched = _STATUS.fullmatch(lines[0])
    if matched is None:
        return None, (), "its first line is no status line"
    fields: list[Field] = []
    sized = chunked = False
    for line in lines[1:]:
        if line in _BLANK:
            continue
        if not _FIELD.match(line):
            return None, (), "a header's name is none"
        name, _, value = line.partition(b":")
        lowered = name.lower()
        if lowered == b"content-length":
            sized = True
            if not _LENGTH.fullmatch(value):
                return None, (), "its Content-Length is no length"
        elif lowered == b"transfer-encoding":
            chunked = True
        fields.append((name, value.strip()))
    if sized and chunked:
        return None, (), "it has both a Content-Length and a Transfer-Encoding"
    return int(matched[1]), tuple(fields), None
