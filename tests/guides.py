"""The guides of docs/, followed literally: what they say to write is written, what they say to insert is inserted."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"`([\w./-]+)`:\n\n```(\w+)\n(.*?)```", re.S)
"""A block of code, and the file that the words before it name."""


def follow(guide: Path, root: Path) -> list[Path]:
    """Do in `root` what the guide says; returns the files that it touched."""
    blocks = _BLOCK.findall(guide.read_text())
    assert blocks, f"{guide.name} says nothing to write"
    return [_do(root, name, kind, text) for name, kind, text in blocks]


def _do(root: Path, name: str, kind: str, text: str) -> Path:
    if "NNNN" in name:
        name, text = _numbered(root / Path(name).parent, name, text)
    path = root / name
    if kind == "diff":
        before = "".join(line[1:] for line in text.splitlines(keepends=True) if not line.startswith("+"))
        after = "".join(line[1:] for line in text.splitlines(keepends=True) if not line.startswith("-"))
        there = path.read_text()
        assert there.count(before) == 1, f"{name} does not hold once what the guide changes:\n{before}"
        path.write_text(there.replace(before, after))
    else:
        assert not path.exists(), f"{name} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def _numbered(directory: Path, name: str, text: str) -> tuple[str, str]:
    """A migration takes the next number, and follows the newest one."""
    newest = max(path.name[:4] for path in directory.glob("[0-9]*.py"))
    following = f"{int(newest) + 1:04}"
    return name.replace("NNNN", following), text.replace("NNNN", following).replace("MMMM", newest)
