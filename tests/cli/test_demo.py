"""The demo from nothing: it starts the product, plays its story, and shows what came of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.runtime.service import service_names
from billhook.runtime.valkey import free_port
from billhook_testing.demo import STORY


def test_every_chapter_arrives_and_the_pdfs_are_there(tmp_path: Path) -> None:
    if find_wkhtmltopdf() is None:
        assert not os.environ.get("CI"), "wkhtmltopdf not found"
        pytest.skip("not installed: wkhtmltopdf")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLHOOK_")}
    environment |= {"BILLHOOK_VAR": str(tmp_path), "COLUMNS": "200"}
    environment |= {f"BILLHOOK_{name.upper()}_PORT": str(free_port()) for name in service_names()}
    command = [sys.executable, "-m", "billhook_testing.demo"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    for chapter, news in STORY:
        line = next(line for line in ran.stdout.splitlines() if chapter in line)
        assert re.search(r"\d+ ms$", line.rstrip()), "the chapter arrived"
        for name in news:
            assert f"✓ {name}" in ran.stdout
    files = [Path(path) for path in re.findall(r"PDF +(\S+)", ran.stdout)]
    assert files
    for file in files:
        assert file.read_bytes().startswith(b"%PDF-")


def test_the_readme_shows_what_the_demo_prints() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = readme.partition("`make demo` ends like this:")[2].split("```")[1].splitlines()
    told = [(line.partition("✓")[0].strip(), line.partition("✓ ")[2].split()[0]) for line in shown if "✓" in line]
    assert told == [("" if place else what, name) for what, news in STORY for place, name in enumerate(news)]
