"""What is imported is declared: nobody relies on what another package happens to bring along."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

DISTRIBUTIONS = {
    "billhook": (ROOT, (ROOT / "libs" / "billhook", ROOT / "services")),
    "billhook-testing": (ROOT / "libs" / "billhook_testing", (ROOT / "libs" / "billhook_testing" / "src",)),
    "billhook-webhooks": (ROOT / "libs" / "billhook_webhooks", (ROOT / "libs" / "billhook_webhooks" / "src",)),
}
WORKSHOP = (ROOT / "tests", ROOT / "bench", ROOT / "deploy")
"""What is never installed, and has the group `dev` beside what the product has."""


def imported(sources: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
    """The name that each import begins with, and where it stands: also inside functions, and for types alone."""
    for source in sources:
        for path in sorted(source.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                for name in names:
                    yield name.partition(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(home: Path, *groups: str) -> set[str]:
    """The distributions that a pyproject.toml names, those of its extras and of these groups too."""
    told = tomllib.loads((home / "pyproject.toml").read_text())
    project = told["project"]
    wanted = [project.get("dependencies", ()), *project.get("optional-dependencies", {}).values()]
    wanted += [told["dependency-groups"][group] for group in groups]
    names = (re.split(r"[^\w.-]", text, maxsplit=1)[0] for part in wanted for text in part)
    return {normal(project["name"]), *map(normal, names)}


def undeclared(home: Path, sources: tuple[Path, ...], *groups: str) -> list[str]:
    ours = {path.name for source in sources for path in (source, *source.iterdir())}
    if groups:  # each folder of tests is a place to import from
        ours |= {path.stem for source in sources for path in source.rglob("*")} | {"services"}
    known = declared(home, *groups)
    from_where = packages_distributions()
    return [
        f"{where} imports {name}, which {home.relative_to(ROOT) / 'pyproject.toml'} does not declare"
        for name, where in imported(sources)
        if name not in sys.stdlib_module_names
        and name not in ours
        and not known & {normal(distribution) for distribution in from_where.get(name, [name])}
    ]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_imported_is_declared(name: str) -> None:
    home, sources = DISTRIBUTIONS[name]
    assert {module for module, _ in imported(sources)}, "nothing was read"
    assert undeclared(home, sources) == []


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    assert undeclared(ROOT, WORKSHOP, "dev") == []


def test_what_is_not_declared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "a"\ndependencies = ["sqlalchemy>=2", "uuid_utils; python_version > \'3\'"]\n'
        '[project.optional-dependencies]\nmore = ["dramatiq[redis]"]\n'
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text(
        "import os.path, sqlalchemy.exc, yarl\n"
        "from a import c\nfrom . import d\nimport uuid_utils, dramatiq\n"
        "def f():\n    from starlette.routing import Route\n"
    )
    assert undeclared(tmp_path, (tmp_path / "a",)) == [
        "a/b.py:1 imports yarl, which pyproject.toml does not declare",
        "a/b.py:6 imports starlette, which pyproject.toml does not declare",
    ]
