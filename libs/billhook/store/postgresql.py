"""Connections to PostgreSQL that end when nobody answers: see `billhook.store.database`.

There may be a pooler between that lends a server's connection for one transaction (PgBouncer, a cloud's proxy). It
shows by what it does not take: options at the start, and statements that were prepared on a connection that is another
one by now. Both are done without from then on. Whoever met the second hears of an outage, which the next try ends.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from sqlalchemy.engine import URL

from billhook.errors import SettingsError
from billhook.store.silence import Silence

R = TypeVar("R")

log = logging.getLogger(__name__)

_NOT_PREPARED_HERE: Final = ("26000", "42P05")
"""A prepared statement that is not there, or that somebody else's already is."""

_READ_ONLY: Final = "25006"
"""The server became a replica, or was one when its name was looked up during a failover. The next connection may lead
to the one that can be written to; this one stays as it is for as long as it is kept."""

_TAKEN_FOR_GRANTED: Final = ("DateStyle=ISO", "default_transaction_isolation=read\\ committed")
"""How times are written, which the driver reads in one way, and what a transaction sees of those beside it."""

_LOOK_UP_SECONDS: Final = 3.0
"""How long the name of a server may take: with a silent name server the system's resolver takes up to a minute."""

_CONNECT_SECONDS: Final = 4
"""How long it may take to connect, at one or two addresses."""


class _Names:
    """Looks up the names of servers, each in a thread, since nothing can end that. Whoever asks meanwhile for the same
    one waits for the same answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, Future[list[str]]] = {}

    def addresses(self, hosts: Sequence[str]) -> list[list[str]]:
        """Those of each; none of one that is not found, as long as another is."""
        asked = [self._ask(host) for host in hosts]
        wait(asked, _LOOK_UP_SECONDS)
        found = [answer.result() if answer.done() and answer.exception() is None else [] for answer in asked]
        if not any(found):
            reason = asked[-1].exception() if asked[-1].done() else f"no answer within {_LOOK_UP_SECONDS:g} s"
            raise psycopg.OperationalError(f"the name {hosts[-1]} could not be looked up: {reason}")
        return found

    def _ask(self, host: str) -> Future[list[str]]:
        with self._lock:
            answer = self._asked.get(host)
            if answer is None:
                answer = self._asked[host] = Future()
                threading.Thread(target=self._look_up, args=(host, answer), name="name", daemon=True).start()
            return answer

    def _look_up(self, host: str, answer: Future[list[str]]) -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)
        with self._lock:
            del self._asked[host]


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def check_is_there(connection: psycopg.Connection[Any], *_: object) -> None:
    """Raise where the server has hung up on a connection that nobody used: by a restart, a failover, a limit of its own
    for who is idle. Somebody would get an error for it whose work is fine. An answer that nobody waits for is a
    goodbye."""
    if not connection.closed:
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        if not poll.poll(0):
            return
    raise sa.exc.InvalidatePoolError("the server has hung up")


class _Pooler:
    """Whether there is one between, as far as it has shown."""

    refuses_options = False
    shares_connections = False

    def __init__(self) -> None:
        self._names = _Names()

    def is_behind(self, error: BaseException) -> bool:
        """Whether this error was its doing."""
        if getattr(error, "sqlstate", None) not in _NOT_PREPARED_HERE:
            return False
        if not self.shares_connections:
            log.warning("a pooler lends connections for one transaction: statements are not prepared any more")
        self.shares_connections = True
        return True

    def connect(self, words: Any, options: Mapping[str, Any]) -> _BoundedConnection:
        if self.refuses_options:
            options = {name: value for name, value in options.items() if name != "options"}
        try:
            connection = _BoundedConnection.connect(*words, **self._addressed(options))
        except psycopg.OperationalError as error:
            if "options" not in options or "unsupported startup parameter" not in str(error):
                raise
            log.warning("a pooler takes no options: only this side limits how long a statement takes")
            self.refuses_options = True
            return self.connect(words, options)
        if self.shares_connections:
            connection.prepare_threshold = None
        return connection

    def _addressed(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the addresses of its hosts beside their names, and as much time for each as leaves some for the others.
        Sockets are as they were."""
        hosts, ports = (str(options.get(name) or "").split(",") for name in ("host", "port"))
        if "hostaddr" in options or not all(hosts) or any(host[0] in "/@" for host in hosts):
            return options
        named = [host for host in hosts if not _is_address(host)]
        found = dict(zip(named, self._names.addresses(named), strict=True)) if named else {}
        ports = ports * len(hosts) if len(ports) == 1 else ports
        ways = [
            (host, address, port)
            for host, port in zip(hosts, ports, strict=True)
            for address in found.get(host, [host])
        ]
        lists = zip(("host", "hostaddr", "port"), zip(*ways, strict=True), strict=True)
        seconds = max(2, _CONNECT_SECONDS // len(ways))  # libpq takes less for 2
        return {**options, **{name: ",".join(values) for name, values in lists}, "connect_timeout": seconds}


class _BoundedConnection(psycopg.Connection[Any]):
    """A connection to PostgreSQL that is closed when a statement was not answered in time."""

    answer_seconds: float | None = None
    silence: Silence | None = None

    def wait(self, gen: PQGen[R], interval: float = 0.1, timeout: float | None = None) -> R:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            # An answer that comes now would be taken for that of the next statement.
            self.pgconn.finish()
            if self.silence is not None:
                self.silence.waited()
            raise psycopg.OperationalError(f"PostgreSQL did not answer within {self.answer_seconds:g} s") from None


def engine(
    url: URL, alike: Mapping[str, Any], pool_size: int, answer_seconds: float | None, silence: Silence
) -> sa.Engine:
    """`alike`: what engines of both dialects are made with."""
    # A dead server must be noticed: without a limit a connect to a silent host waits for minutes.
    arguments: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS, "application_name": "billhook"}
    # Whatever a server, a database or a role has for its default. Options in the URL take precedence.
    options = [*_TAKEN_FOR_GRANTED]
    if answer_seconds is not None:
        # The server gives up a statement, or its wait for a lock, before we do: whoever hears nothing must take the
        # server for silent and drop the connection.
        limit = int(answer_seconds * 875)
        options += [f"statement_timeout={limit}", f"lock_timeout={limit}"]
        # Keep-alives notice a peer that has vanished, also while no statement is under way.
        arguments |= {"keepalives_idle": 10, "keepalives_interval": 3, "keepalives_count": 3}
    if "options" not in url.query:
        arguments["options"] = " ".join(f"-c {option}" for option in options)
    made = sa.create_engine(
        url,
        **alike,
        pool_size=pool_size,
        max_overflow=pool_size,
        # Last in, first out: one connection does most of the work, and has all statements prepared and their pages at
        # hand.
        pool_use_lifo=True,
        pool_timeout=answer_seconds or 30.0,
        connect_args=arguments,
    )

    pooler, is_disconnect = _Pooler(), made.dialect.is_disconnect

    def is_lost(error: Any, connection: Any, cursor: Any) -> bool:
        read_only = getattr(error, "sqlstate", None) == _READ_ONLY
        return read_only or pooler.is_behind(error) or bool(is_disconnect(error, connection, cursor))

    made.dialect.is_disconnect = is_lost  # type: ignore[method-assign, assignment]

    sa.event.listen(made, "checkout", check_is_there)

    @sa.event.listens_for(made, "do_connect")
    def connect(_: object, __: object, words: Any, options: Any) -> psycopg.Connection[Any]:
        silence.still()
        try:
            connection = pooler.connect(words, options)
        except psycopg.OperationalError:
            silence.waited()
            raise
        connection.answer_seconds, connection.silence = answer_seconds, silence
        encoding = connection.pgconn.parameter_status(b"server_encoding") or b"UTF8"
        if encoding != b"UTF8":
            connection.close()
            raise SettingsError(
                f"The database {url.database} is encoded in {encoding.decode()}, which cannot hold every text."
                " Make one with `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`."
            )
        return connection

    return made
