"""What is counted, or said in the log, has happened: within a transaction nothing is, but by `after_commit`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COUNTS = ("inc", "observe")
SAYS = ("info", "warning", "error")
BEGINS = ("begin", "statement")


def told_too_early(source: str) -> list[str]:
    """The calls that count or say something while a transaction is open, by themselves or through a method beside
    them."""
    tree = ast.parse(source)
    methods = {one.name: one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
    telling = {name for name, method in methods.items() if any(_tells(call) for call in _calls(method.body))}
    while more := {
        name
        for name, method in methods.items()
        if name not in telling and any(_method(call) in telling for call in _calls(method.body))
    }:
        telling |= more
    within = [method.body for method in methods.values() if any(a.arg == "tx" for a in method.args.args)]
    within += [block.body for block in ast.walk(tree) if isinstance(block, ast.With) and _begins(block)]
    found = {call for body in within for call in _calls(body) if _tells(call) or _method(call) in telling}
    return sorted({f"line {call.lineno}: {ast.unparse(call.func)}" for call in found})


def _calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Of a block, without what a function within it would do later; a bare name that is handed on is no call."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


def _tells(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    said = isinstance(call.func.value, ast.Name) and call.func.value.id == "log" and call.func.attr in SAYS
    return said or call.func.attr in COUNTS


def _method(call: ast.Call) -> str | None:
    """The name of a method of the same object."""
    func = call.func
    own = isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "self"
    return func.attr if own and isinstance(func, ast.Attribute) else None


def _begins(block: ast.With) -> bool:
    opened = [item.context_expr for item in block.items]
    calls = [one.func for one in opened if isinstance(one, ast.Call)]
    return any(isinstance(func, ast.Attribute) and func.attr in BEGINS for func in calls)


@pytest.mark.parametrize("folder", ["libs/billhook", "services"])
def test_nothing_is_counted_or_said_before_it_is_committed(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): early
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (early := told_too_early(path.read_text()))
    }
    assert not found, f"a transaction may still be rolled back: hand these to `after_commit`: {found}"


def test_the_look_sees_each_way_to_tell_too_early() -> None:
    plain = "def effects(self, tx):\n    self.total.labels('x').inc()\n"
    block = "def run(self):\n    with self.database.begin() as tx:\n        log.info('done')\n"
    beside = f"def count(self):\n    self.total.inc()\n{block.replace('log.info', 'self.count')}"
    later = (
        "def effects(self, tx):\n    after_commit(tx, self.total.inc)\n    after_commit(tx, lambda: log.info('x'))\n"
    )
    assert [len(told_too_early(one)) for one in (plain, block, beside, later)] == [1, 1, 1, 0]
