"""How rings lie in Redis: as dramatiq's messages in dramatiq's queues, and how one process waits for them.

    <namespace>:<queue>        a list of message ids           } as dramatiq keeps them: its own workers and tools
    <namespace>:<queue>.msgs   a hash: message id → message    } read and write them too
    <namespace>:<queue>.wake   a list of tokens, one to wake one listener; at most `WAKES`
    <namespace>:<queue>.room   never there: listeners write nothing to it, which shows that something could be written

A ring is one command, and hearing it two that are sent and answered together: a wait, and the taking of all that is
there when it ends. dramatiq's workers poll, and hand a message from a thread that fetches to one that works; here the
thread that does the work waits for it (docs/decisions/0008-rings-are-heard-by-the-thread-that-claims.md).
"""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from billhook.logs import Outage

log = logging.getLogger(__name__)

WAKES: Final = 16
"""Wake-ups kept for listeners that are busy: enough for as many consumers to be woken by one burst of rings."""

RINGS_AT_ONCE: Final = 64
"""Taken together: 12,800 ids at most."""

RINGS_KEPT: Final = 200
"""Whoever finds more waiting forgets them and looks into SQL, where all of it is due. So a queue that nobody listens to
stays small once somebody does, and nobody works through stale rings."""

IDLE_SECONDS: Final = 2.0
"""How long an idle listener waits in Redis. It is the sign of life: Redis answers at least so often. And it finds what
other programs left, who wake nobody."""

DEAF_SECONDS: Final = 5.0
"""After so long without an answer the connection is taken for dead, and another one is made."""

RECONNECT_SECONDS: Final = 0.5

_RING: Final = f"""
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
if redis.call('LLEN', KEYS[3]) < {WAKES} then redis.call('LPUSH', KEYS[3], '') end
"""

_TAKE: Final = f"""
redis.call('SETRANGE', KEYS[4], 0, '')
local waiting = redis.call('LLEN', KEYS[1])
if waiting > {RINGS_KEPT} then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
  return false
end
if waiting == 0 then
  return {{}}
end
local ids = redis.call('LPOP', KEYS[1], {RINGS_AT_ONCE})
local messages = redis.call('HMGET', KEYS[2], unpack(ids))
redis.call('HDEL', KEYS[2], unpack(ids))
if waiting == #ids then
  redis.call('DEL', KEYS[3])
elseif redis.call('LLEN', KEYS[3]) == 0 then
  redis.call('LPUSH', KEYS[3], '')
end
return messages
"""
"""Raises where Redis answers and takes nothing: it is full, or cannot save, or is a replica. Nobody can ring then, and
whoever only listened would wait in peace for ever."""


class DoorbellBroker(RedisBroker):
    """dramatiq's Redis broker, for rings."""

    def __init__(self, url: str) -> None:
        # All socket options must be in the URL: with `url=` every other argument is ignored.
        super().__init__(url=url, middleware=[])  # type: ignore[no-untyped-call]
        self._ringing = threading.Lock()
        self._line: Any = None
        """The connection of rings. The library's pool takes as long over lending one as Redis over a ring."""
        self._owed = 0
        """Answers to come on it."""
        self.outage = Outage(log, "the queue (nothing is lost: consumers read SQL meanwhile)")

    def keys_of(self, queue_name: str) -> tuple[str, str, str]:
        queue = f"{self.namespace}:{queue_name}"
        return queue, f"{queue}.msgs", f"{queue}.wake"

    def ring(self, queue_name: str, ids: Sequence[str]) -> None:
        """Leave a message, and wake one listener that waits. Raises if Redis does not take it."""
        command = self._command(queue_name, ids)
        with self._ringing:
            if self._line is not None:
                with suppress(redis.ConnectionError):  # it was closed meanwhile: another one may stand
                    self._speak(command)
                    self._hear()
                    return
            self._line, self._owed = self.connected(), 0
            self._speak(command)
            self._hear()

    def ring_at_once(self, queue_name: str, ids: Sequence[str]) -> bool:
        """The same without waiting for anybody, Redis's answer included, which is read before the next ring. False
        where that cannot be: nothing was rung then."""
        if not self._ringing.acquire(blocking=False):
            return False
        try:
            if self._line is None or (self._owed and not self._line.can_read(0)):
                return False
            self._hear()
            if self._line.can_read(0):  # raises if it was closed; and nothing is to come
                self._line = None
                return False
            self._speak(self._command(queue_name, ids))
        except (redis.RedisError, OSError):  # whoever rings next, and waits, finds out
            self._line = None
            return False
        finally:
            self._ringing.release()
        return True

    def _command(self, queue_name: str, ids: Sequence[str]) -> tuple[Any, ...]:
        message_id = str(uuid4())
        message: dramatiq.Message[Any] = dramatiq.Message(
            queue_name=queue_name,
            actor_name=queue_name,
            args=(list(ids),),
            kwargs={},
            options={"redis_message_id": message_id},
            message_id=message_id,
        )
        keys = self.keys_of(queue_name)
        return ("EVAL", _RING, len(keys), *keys, message_id, message.encode())

    def connected(self) -> Any:
        """A connection of its own, beside the pool."""
        pool = self.client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def _speak(self, command: tuple[Any, ...]) -> None:
        line, self._line = self._line, None  # gone, unless this goes well
        line.send_packed_command(line.pack_command(*command), check_health=False)
        self._owed += 1
        self._line = line

    def _hear(self) -> None:
        if not self._owed:
            return
        line, self._line = self._line, None
        while self._owed:
            line.read_response()
            self._owed -= 1
        self._line = line
        self.outage.worked()

    def close(self) -> None:
        super().close()
        with self._ringing:
            if self._line is not None:
                self._line.disconnect()
                self._line = None

    def waiting(self, queue_name: str) -> int:
        """Rings that nobody has taken yet."""
        return int(self.client.llen(f"{self.namespace}:{queue_name}"))


LOOK: Final[list[str]] = []
"""A ring without ids: look into SQL."""


class RingReader:
    """A connection on which one thread at a time waits for the rings of a queue. It never waits for the connection."""

    def __init__(self, broker: DoorbellBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        keys = broker.keys_of(queue)
        # Answered together: Redis goes on with what a client has sent as soon as its wait is over.
        self._commands = (
            ("BLPOP", keys[-1], IDLE_SECONDS),
            ("EVAL", _TAKE, len(keys) + 1, *keys, f"{keys[0]}.room"),
        )
        self._connection: Any = None
        self._owed = 0
        """Answers to come: two after the commands were sent."""
        self._answer_by = time.monotonic()
        """When the next answer is to be expected, at the latest."""
        self._refused_since = math.inf
        """Since when all answers have been refusals."""
        self._connecting = False
        self._closed = threading.Event()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)

    @property
    def silent_seconds(self) -> float:
        """For how long an answer has been overdue, or been a refusal."""
        return time.monotonic() - min(self._answer_by, self._refused_since)

    def hear(self, seconds: float) -> list[list[str]]:
        """The ids of the rings that have come, ring by ring; nothing after `seconds`, or when somebody called `wake`.
        A wait may end without either."""
        try:
            if self._connection is None:
                self._connect_beside()
            elif not self._owed:
                self._ask()
            elif self.silent_seconds > DEAF_SECONDS and not self._connection.can_read(0):
                raise redis.TimeoutError(f"no answer within {DEAF_SECONDS:g} s")
            if not self._wait(seconds):
                return []
            return self._read()
        except (redis.RedisError, OSError) as error:
            self._broker.outage.failed(str(error))
            if isinstance(error, redis.ResponseError):
                self._refused_since = min(self._refused_since, time.monotonic())
            self._drop()
            return []

    def wake(self) -> None:
        """End a wait, or the next one."""
        with suppress(OSError):  # it has been woken often enough, or is closed
            self._waker.send(b"x")

    def close(self) -> None:
        """Only when nobody hears any more."""
        self._closed.set()
        self._drop()
        self._woken.close()
        self._waker.close()

    def _ask(self) -> None:
        # Without the library's own check of the connection, whose answer would come among these.
        self._connection.send_packed_command(self._connection.pack_commands(self._commands), check_health=False)
        self._owed = len(self._commands)
        self._answer_by = time.monotonic() + IDLE_SECONDS

    def _wait(self, seconds: float) -> bool:
        """Whether there is an answer to read."""
        connection = self._connection
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if connection is not None:
            poll.register(connection._sock, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self._woken.fileno() in ready:
            ready.remove(self._woken.fileno())
            self._woken.recv(4096)
        return bool(ready)

    def _read(self) -> list[list[str]]:
        answer = None
        while self._owed:
            if not self._connection.can_read(0):
                return []
            answer = self._connection.read_response()
            self._owed -= 1
        self._answer_by, self._refused_since = time.monotonic() + IDLE_SECONDS, math.inf
        self._broker.outage.worked()
        return [LOOK] if answer is None else [_ids(message) for message in answer if message is not None]

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._owed = 0
        self._answer_by = min(self._answer_by, time.monotonic())
        if connection is not None:
            connection.disconnect()

    def _connect_beside(self) -> None:
        if not self._connecting:
            self._connecting = True
            threading.Thread(target=self._connect, name=f"rings of {self._queue}", daemon=True).start()

    def _connect(self) -> None:
        try:
            if self._refused_since < math.inf:
                self._closed.wait(RECONNECT_SECONDS)
            connection = self._broker.connected()
            if self._closed.is_set():
                connection.disconnect()
            else:
                self._connection = connection
        except Exception as error:
            self._broker.outage.failed(str(error))
            self._closed.wait(RECONNECT_SECONDS)
        finally:
            self._connecting = False
            self.wake()


def _ids(message: bytes) -> list[str]:
    """What a ring is for; a message that is none says that somebody should look."""
    try:
        (ids,) = dramatiq.Message.decode(message).args
    except Exception as error:
        log.warning("a message that is no ring", extra={"reason": str(error)[:200]})
        return LOOK
    return [str(row_id) for row_id in ids] if isinstance(ids, list) else LOOK
