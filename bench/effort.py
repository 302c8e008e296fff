"""What a message costs the product's processes: processor time, thread switches, round trips to SQL, Redis commands.

The first two are the kernel's counts of the processes. Round trips are counted by a relay before PostgreSQL, which adds
a little to each of them, so that is another pass than the one whose time is taken. Commands are what Redis itself says
that its clients asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis

from bench.processes import Child, Connection

TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Effort:
    """What processes have taken so far: seconds of processor, and how often one of their threads was set aside."""

    seconds: float
    waited: int
    """Switches of a thread that had to wait for something."""
    pushed: int
    """Switches of a thread that would have gone on."""

    def since(self, before: Effort) -> Effort:
        return Effort(self.seconds - before.seconds, self.waited - before.waited, self.pushed - before.pushed)


def effort_of(pid: int) -> Effort:
    """Of a process and all its threads. Threads that have ended count no more; the product's do not come and go."""
    waited = pushed = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "voluntary_ctxt_switches":
                waited += int(value)
            elif name == "nonvoluntary_ctxt_switches":
                pushed += int(value)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Effort((int(fields[11]) + int(fields[12])) / TICKS, waited, pushed)


def efforts(pids: Mapping[str, int]) -> dict[str, Effort]:
    return {name: effort_of(pid) for name, pid in pids.items()}


def commands(queue_url: str) -> int:
    """What the clients of a Redis have asked for so far. What its scripts do on their own is not counted."""
    with redis.Redis.from_url(queue_url) as client:
        stats: dict[str, Any] = client.info("commandstats")
    asked = ("eval", "evalsha", "blpop", "blmove", "ping", "hello", "client|setinfo", "script|load", "info")
    return sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in asked if f"cmdstat_{name}" in stats)


class Relay:
    """Stands before a server, passes everything on, and counts round trips: how often a client spoke after the server
    had."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: the URL of a database on this machine."""
        parts = urlsplit(upstream)
        self._child = Child(_relay, parts.hostname, parts.port)
        port: int = self._child.hear()
        self.url = upstream.replace(f":{parts.port}/", f":{port}/")

    def trips(self) -> int:
        count: int = self._child.ask("trips")
        return count

    def close(self) -> None:
        self._child.close()


def _relay(parent: Connection, host: str, port: int) -> None:
    asyncio.run(_pass_on(parent, host, port))


async def _pass_on(parent: Connection, host: str, port: int) -> None:
    trips = 0
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(host, port)
        answered = True

        async def ask() -> None:
            nonlocal trips, answered
            while data := await reader.read(65536):
                trips += answered
                answered = False
                downstream.write(data)
            downstream.close()

        async def answer() -> None:
            nonlocal answered
            while data := await upstream.read(65536):
                answered = True
                writer.write(data)
            writer.close()

        await asyncio.gather(ask(), answer(), return_exceptions=True)

    def report() -> None:
        try:
            parent.recv()
        except EOFError:
            done.set()
            return
        parent.send(trips)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    asyncio.get_running_loop().add_reader(parent.fileno(), report)
    os.set_blocking(parent.fileno(), True)
    parent.send(server.sockets[0].getsockname()[1])
    await done.wait()
