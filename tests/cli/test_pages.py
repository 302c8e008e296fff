"""What the documentation says is so: generated pages are fresh, links lead somewhere, what is to be typed can be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from billhook.cli.main import app
from billhook.cli.pages import PAGES, write_pages

ROOT = Path(__file__).parents[2]
PROSE = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
IN_BLOCK = re.compile(r"^ *(?:\.venv/bin/)?(billhook|make) (\S.*)$", re.MULTILINE)
IN_PROSE = re.compile(r"`(?:\.venv/bin/)?(billhook|make) ([^`\n]+)`")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_makes(name: str, tmp_path: Path) -> None:
    write_pages(tmp_path)
    fresh = (ROOT / "docs" / name).read_text() == (tmp_path / name).read_text()
    assert fresh, f"docs/{name} is old: run `make docs`"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = (link for link in LINK.findall(FENCE.sub("", page.read_text())) if not re.match(r"[a-z]+:|#", link))
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert missing == [], f"{page.relative_to(ROOT)} links to what is not there"


def typed(program: str) -> Iterator[tuple[str, list[str]]]:
    """(page, words) for whatever the pages say to type, in code blocks and in prose."""
    for page in PROSE:
        text = page.read_text()
        blocks = "\n".join(block for block in FENCE.findall(text) if "billhook is running." not in block)
        indented = "\n".join(re.findall(r"^ {4}\S.*$", FENCE.sub("", text), re.MULTILINE))
        prose = FENCE.sub("", text)
        for found, words in IN_BLOCK.findall(f"{blocks}\n{indented}") + IN_PROSE.findall(prose):
            if found == program:
                yield page.name, shlex.split(re.split(r"\s+#|,| and ", words)[0])


def test_every_command_the_pages_name_exists_with_its_options() -> None:
    unknown = []
    for page, words in typed("billhook"):
        command, rest = get_command(app), list(words)
        while rest and isinstance(command, TyperGroup) and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        # Below a group there is nothing but its commands; below a command, what it is given.
        given = rest if isinstance(command, TyperGroup) else [word for word in rest if word.startswith("--")]
        if not known.issuperset(given):
            unknown.append(f"{page}: billhook {' '.join(words)}")
    assert unknown == []


SECRET_AS_ARGUMENT = re.compile(
    r"""--(?:secret|api-key|password)[ =](?!-)["'\w] | -H\ ["']Authorization | -hmac\ \w | -macopt | -u\ \w+:\w""",
    re.VERBOSE,
)
"""Which everybody on the machine can read in the list of processes, and later in the shell's history."""


def test_no_example_gives_a_secret_as_an_argument() -> None:
    pages = [*PROSE, ROOT / "libs" / "billhook_webhooks" / "README.md", ROOT / "deploy" / "compose.env.example"]
    assert not [(page.name, found) for page in pages for found in SECRET_AS_ARGUMENT.findall(page.read_text())]
    assert SECRET_AS_ARGUMENT.search("billhook sources add stripe --secret whsec_1")
    assert SECRET_AS_ARGUMENT.search('curl http://x -H "Authorization: Bearer $KEY"')


def test_every_make_target_the_pages_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[0] for _, words in typed("make")}
    assert len(named) > 5
    assert named <= targets
