"""Reading in threads, of which many meet a type for the first time at once."""

from __future__ import annotations

import subprocess
import sys

READ_AT_ONCE = """
import sys, threading
import msgspec
from billhook.providers.reading import converted, decoder_of

sys.setswitchinterval(1e-6)
NAMES = [f"field_{number}" for number in range(30)]
THREADS = 16


def struct(name, kind):
    return msgspec.defstruct(name, [(field, kind) for field in NAMES])


def read(number, kind, value, body, start, found):
    start.wait()
    found.append(converted(value, kind) if number % 2 else decoder_of(kind).decode(body))


for _ in range(30):
    inner = struct("Inner", str | None)
    outer = struct("Outer", inner | None)
    value = dict.fromkeys(NAMES, dict.fromkeys(NAMES, "x"))
    start, found, body = threading.Barrier(THREADS), [], msgspec.json.encode(value)
    threads = [
        threading.Thread(target=read, args=(number, outer, value, body, start, found)) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == THREADS and all(one == found[0] for one in found)
"""


def test_threads_that_meet_a_type_at_once_all_read_it() -> None:
    """In a process of its own: what went wrong here ended it with a segmentation fault."""
    ran = subprocess.run([sys.executable, "-c", READ_AT_ONCE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
