"""What the documentation, comments and messages refer to is there: files, names in them, links, commands."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from typer.main import get_command

from billhook.cli.main import app
from billhook.metrics import DECLARED
from billhook.runtime.settings import SETTINGS, variable

ROOT = Path(__file__).parent.parent
_FILE = re.compile(r"[\w-][\w./-]*\.(?:py|md|toml|typ|html|ya?ml|sh|css)")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)
_CODE = re.compile(r"^```\w+$.*?^```", re.M | re.S)
"""A block that names its language; without one it is what a command prints."""
_MADE = re.compile(r"`([\w./-]+)`:\n\n```(?!diff)")
"""A file that a guide has its reader write (see `guides.py`)."""
_CODE_FILE = re.compile(r"(?:Makefile|Dockerfile|\.(?:py|toml|ya?ml|json|html|typ|js|css|sh))$")
_OTHERS = {"timedatectl"}
"""Programs of the machine that a page has one type."""
_COMMAND = re.compile(r"(?:^|[`/ ])billhook ((?:[a-z]|--)[^`\n#|\"\\]*)", re.M)
_DOTTED = re.compile(r"`(billhook(?:_\w+)?(?:\.\w+)+)`")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
_OF_CLASS = re.compile(r"([A-Z]\w+)\.([a-z_]\w*)")


@functools.cache
def tracked() -> frozenset[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return frozenset(listed.stdout.split("\n")) - {""}


@functools.cache
def folders() -> frozenset[str]:
    return frozenset(str(folder) for name in tracked() for folder in PurePosixPath(name).parents)


def pages() -> list[str]:
    wanted = ("README.md", "ARCHITECTURE.md")
    return sorted(name for name in tracked() if name in wanted or (name.startswith("docs/") and name.endswith(".md")))


def sources() -> list[str]:
    return sorted(name for name in tracked() if name.startswith(("libs/", "services/")) and name.endswith(".py"))


@functools.cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


@functools.cache
def words() -> frozenset[str]:
    """All that the product and its tests are written with, and what settings and metrics are called outside."""
    code = [name for name in tracked() if _CODE_FILE.search(name) and not (ROOT / name).samefile(__file__)]
    found = {word for name in code for word in re.findall(r"\w+", text_of(name))}
    return frozenset(found | {variable(name) for name in SETTINGS} | {declared.name for declared in DECLARED} | _OTHERS)


def matching(path: str) -> list[str]:
    """The files of the repository that a path can mean: from its root, or the end of a longer one."""
    return [name for name in tracked() if name == path or name.endswith(f"/{path}")]


def wrong_paths(text: str) -> Iterator[str]:
    made = set(_MADE.findall(text))
    for span in _SPAN.findall(_FENCE.sub("", text)):
        path, _, names = span.partition(": ")
        if path in made or " " in path or "<" in path or "://" in path:
            continue
        if _FILE.fullmatch(path):
            found = matching(path)
            if not found:
                yield f"`{span}`: there is no such file"
            for name in re.findall(r"\w+", names):
                if not any(re.search(rf"\b{name}\b", (ROOT / file).read_text()) for file in found):
                    yield f"`{span}`: {name} is not in it"
        elif path.endswith("/") and path.partition("/")[0] in folders() and path.rstrip("/") not in folders():
            yield f"`{span}`: there is no such folder"


def wrong_spans(text: str) -> Iterator[str]:
    """Names in code that stand alone: of functions, fields, settings, metrics, columns."""
    for span in _SPAN.findall(_FENCE.sub("", text)):
        if not _NAME.fullmatch(span) or _FILE.fullmatch(span) or re.fullmatch(r"BILLHOOK_\w+_PORT", span):
            continue
        if of_class := _OF_CLASS.fullmatch(span):
            owner, member = of_class.groups()
            homes = [name for name in sources() if re.search(rf"^class {owner}\b", text_of(name), re.M)]
            if not any(re.search(rf"\b{member}\b", text_of(home)) for home in homes):
                yield f"`{span}`: there is no such name"
        elif missing := set(re.findall(r"\w+", span)) - words():
            yield f"`{span}`: {', '.join(sorted(missing))} is nowhere in the code"


def wrong_links(page: str, text: str) -> Iterator[str]:
    for link in _LINK.findall(_FENCE.sub("", text)):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists():
            yield f"({link}): there is nothing"
        elif anchor and anchor not in anchors(target.read_text()):
            yield f"({link}): there is no such heading"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """The commands in code: in spans and in blocks."""
    for code in [*_SPAN.findall(_FENCE.sub("", text)), *_CODE.findall(text)]:
        yield from (command.strip() for command in _COMMAND.findall(code))


def wrong_command(command: str) -> str | None:
    here: Any = get_command(app)
    for word in command.replace("[", " ").replace("]", " ").split():
        if word.startswith("--"):
            options = {option for parameter in here.params for option in (*parameter.opts, *parameter.secondary_opts)}
            if word.split("=")[0] not in options | {"--help"}:
                return f"`billhook {command}`: there is no option {word}"
        elif known := getattr(here, "commands", None):
            if word == "…":
                return None
            if word not in known:
                return f"`billhook {command}`: there is no command {word}"
            here = known[word]
    return None


def wrong_commands(text: str) -> Iterator[str]:
    yield from filter(None, map(wrong_command, commands(text)))


@pytest.mark.parametrize("page", pages())
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [*wrong_paths(text), *wrong_links(page, text), *wrong_commands(text)]
    if not page.startswith("docs/decisions/"):  # which tell of what was not taken, too
        assert not list(wrong_spans(text))


def test_what_comments_and_messages_name_is_there() -> None:
    wrong = []
    for source in sources():
        text = (ROOT / source).read_text(encoding="utf-8")
        found = [*wrong_commands(text), *(f"`{name}`: there is no such name" for name in wrong_names(text))]
        wrong += [f"{source}: {sentence}" for sentence in found]
    assert not wrong


def wrong_names(text: str) -> Iterator[str]:
    for dotted in _DOTTED.findall(text):
        if not is_there(dotted):
            yield dotted


@functools.cache
def is_there(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    try:
        importlib.import_module(dotted)
    except ImportError:
        return bool(module) and hasattr(importlib.import_module(module), name)
    return True


def test_what_is_not_there_is_found() -> None:
    page = (
        "`store/nothing.py`, `store/work.py: claim, swallow`, [a page](docs/nothing.md), `billhook up`, and"
        " `billhook keys lose`. `Steps.run` and `Steps.stroll`, `due_at` and `owed_at`, `BILLHOOK_VAR`."
        "\n\n```sh\nbillhook check --loudly\n```\n"
    )
    assert [*wrong_paths(page), *wrong_spans(page), *wrong_links("README.md", page), *wrong_commands(page)] == [
        "`store/nothing.py`: there is no such file",
        "`store/work.py: claim, swallow`: swallow is not in it",
        "`Steps.stroll`: there is no such name",
        "`owed_at`: owed_at is nowhere in the code",
        "(docs/nothing.md): there is nothing",
        "`billhook keys lose`: there is no command lose",
        "`billhook check --loudly`: there is no option --loudly",
    ]
    assert list(wrong_names("see `billhook.rules.book` and `billhook.rules.nothing`")) == ["billhook.rules.nothing"]
