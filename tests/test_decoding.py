"""Reading in threads, of which many meet a type for the first time at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

READ_AT_ONCE = """
import sys, threading
import msgspec
from billhook.decoding import convert, decoder_of

sys.setswitchinterval(1e-6)
NAMES = [f"field_{number}" for number in range(30)]
THREADS = 16


def struct(name, kind):
    return msgspec.defstruct(name, [(field, kind) for field in NAMES])


def read(number, kind, value, body, start, found):
    start.wait()
    found.append(convert(value, kind) if number % 2 else decoder_of(kind).decode(body))


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


def test_nobody_reads_a_type_past_the_lock() -> None:
    """Migrations run in one thread, and stay as they were written."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for part in ("libs/billhook", "services")
        for path in sorted((ROOT / part).rglob("*.py"))
        if path.name != "decoding.py" and "migrations" not in path.parts
        for line in read_past_the_lock(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"use billhook.decoding, whose first use of a type is safe in threads: {found}"


def read_past_the_lock(source: str) -> list[int]:
    """The lines in which it is done."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if _reads_a_type(call)]


def _reads_a_type(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name == "msgspec.json.decode":
        return any(word.arg == "type" for word in call.keywords)
    return name in ("msgspec.convert", "msgspec.json.Decoder")
