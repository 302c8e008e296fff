"""Imports run one way, so that a reader can go from the rules outwards, and nobody drags the world into arithmetic."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

LAYERS = (
    {"events", "errors", "metrics", "logs", "parts", "decoding"},
    {"rules", "tracing"},
    {"store", "queue", "providers", "documents", "outlets"},
    {"runtime"},
    {"actions"},
    {"cli"},
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

# The consumer machinery marks work as done in the transaction of its effects.
SIBLINGS_ALLOWED = {("queue", "store")}

NAMES_THAT_SAY_NOTHING = {
    *("utils", "util", "helpers", "common", "core", "base", "manager", "models", "service_layer"),
}

Modules = dict[str, Path]
Import = tuple[str, str, int]
"""Who imports, what, in which line."""


def modules_of(root: Path) -> Modules:
    found = {}
    for source in (root / "libs", root):
        for path in sorted((source / ("billhook" if source != root else "services")).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(modules: Modules) -> Iterator[Import]:
    """Every import wherever it stands: one inside a function or for types alone still says who knows whom."""
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield name, alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    whole = f"{origin}.{alias.name}"
                    yield name, whole if whole in modules else origin, node.lineno


def part_of(module: str) -> tuple[str, str]:
    """`("billhook", "rules")`, `("services", "courier")`; an empty second word is the package itself."""
    words = [*module.split("."), ""]
    return words[0], words[1]


def breach(importer: str, imported: str) -> str | None:
    """The rule that this import breaks, or None."""
    (home, part), (target, other) = part_of(importer), part_of(imported)
    if target == "dramatiq" and part != "queue":
        return "dramatiq lives in billhook.queue and nowhere else"
    if target == "billhook_testing":
        return "what serves customers knows no fakes"
    if target not in ("billhook", "services") or (home, part) == (target, other) or not other:
        return None
    if home == "services":
        return "a service never imports another service" if target == "services" else None
    if target == "services":
        return "libraries do not know the services that use them"
    if not part or (part, other) in SIBLINGS_ALLOWED or RANK.get(part, 0) > RANK.get(other, 0):
        return None
    if RANK.get(part) == RANK.get(other):
        return f"{part} and {other} are siblings, and siblings do not import each other"
    return f"{part} stands below {other}, and imports run downwards only"


def cycles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Each circle of imports that a walk through all modules closes."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[list[str]]:
        if module in trail:
            yield [*trail[trail.index(module) :], module]
        elif module not in done:
            for imported in sorted(edges.get(module, ())):
                yield from walk(imported, [*trail, module])
            done.add(module)

    for module in sorted(edges):
        yield from walk(module, [])


def complaints(root: Path) -> list[str]:
    modules = modules_of(root)
    said = []
    edges: dict[str, set[str]] = {}
    for importer, imported, line in imports_of(modules):
        if imported in modules and imported != importer:
            edges.setdefault(importer, set()).add(imported)
        if rule := breach(importer, imported):
            said.append(f"{modules[importer].relative_to(root)}:{line} imports {imported}: {rule}.")
    said += [f"These modules import each other in a circle: {' → '.join(circle)}." for circle in cycles(edges)]
    for name, path in modules.items():
        where = path.relative_to(root)
        if NAMES_THAT_SAY_NOTHING & set(name.split(".")):
            said.append(f"{where}: the name does not say what the file is for.")
        home, part = part_of(name)
        if home == "billhook" and part and part not in RANK:
            said.append(f"{where}: billhook.{part} has no place in the order of the layers (see ARCHITECTURE.md).")
    return said


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_run_one_way() -> None:
    assert modules_of(ROOT), "nothing was read"
    assert complaints(ROOT) == []


def test_rules_and_verbs_are_handed_the_time() -> None:
    """But for the writer of what is published, which commits by itself."""
    reads = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for part in ("rules", "store", "documents", "actions")
        for path in sorted((ROOT / "libs" / "billhook" / part).rglob("*.py"))
        if path.name != "publishing.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("env.clock", "datetime.now", "time.time"))
    ]
    assert reads == []


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "libs/billhook/__init__.py": "",
            "libs/billhook/errors.py": "import msgspec",
            "libs/billhook/rules/__init__.py": "",
            "libs/billhook/rules/money.py": "from billhook.errors import BillhookError",
            "libs/billhook/rules/invoice.py": "from . import money\nfrom ..errors import Refused",
            "libs/billhook/store/work.py": "from billhook.rules import money",
            "libs/billhook/queue/consumer.py": "import dramatiq\nfrom billhook.store import work",
            "libs/billhook/actions/pay.py": "from billhook.runtime import host",
            "libs/billhook/cli/main.py": "from billhook.actions import pay",
            "libs/billhook/runtime/host.py": "from billhook.queue.consumer import run",
            "services/courier/service.py": "from services.courier import send\nfrom billhook.runtime import host",
            "services/courier/send.py": "import billhook.store.work",
        },
    )
    assert complaints(tmp_path) == []


def test_each_breach_is_named_in_a_sentence(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "libs/billhook/rules/money.py": "def f():\n    from billhook.store import work",
            "libs/billhook/store/work.py": "from billhook.queue import ring\nfrom billhook.rules import money",
            "libs/billhook/queue/ring.py": "import services.courier.service",
            "libs/billhook/outlets/utils.py": "from billhook_testing import fakes",
            "libs/billhook/things.py": "",
            "services/courier/service.py": "from services.relay.service import ring\nimport dramatiq.broker",
            "services/relay/service.py": "",
        },
    )
    assert complaints(tmp_path) == [
        "libs/billhook/outlets/utils.py:1 imports billhook_testing: what serves customers knows no fakes.",
        "libs/billhook/queue/ring.py:1 imports services.courier.service: "
        "libraries do not know the services that use them.",
        "libs/billhook/rules/money.py:2 imports billhook.store.work: "
        "rules stands below store, and imports run downwards only.",
        "libs/billhook/store/work.py:1 imports billhook.queue.ring: "
        "store and queue are siblings, and siblings do not import each other.",
        "services/courier/service.py:1 imports services.relay.service: a service never imports another service.",
        "services/courier/service.py:2 imports dramatiq.broker: dramatiq lives in billhook.queue and nowhere else.",
        "These modules import each other in a circle: "
        "billhook.rules.money → billhook.store.work → billhook.rules.money.",
        "libs/billhook/outlets/utils.py: the name does not say what the file is for.",
        "libs/billhook/things.py: billhook.things has no place in the order of the layers (see ARCHITECTURE.md).",
    ]
