"""The files of words: each is whole, a mistake in one is named, and docs/translate.md is enough to add one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from babel import Locale

from billhook.documents.words import PLACEHOLDERS, DunningWords, HostedWords, Words, languages, read_language
from billhook.errors import LanguageError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "libs/billhook/documents/languages"
PAGE = (ROOT / "docs/translate.md").read_text("utf-8")
ENGLISH = (FOLDER / "en.toml").read_text("utf-8")


@pytest.mark.parametrize("language", sorted(languages()))
def test_every_file_is_whole_and_named_for_a_language(language: str) -> None:
    read_language(FOLDER / f"{language}.toml")
    assert Locale.parse(language).language == language


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ('due = "Date due"\n', "", "da.toml lacks words in [document]: due. Copy"),
        ('gone = "This link does not work"\n', "", "da.toml lacks words in [hosted_page]: gone. Copy"),
        (
            'due = "Date due"',
            'deu = "Date due"\ndue = "Due"',
            "da.toml has in [document] what nothing shows: deu. Take",
        ),
        ("[hosted_page]", "# [hosted_page]", "da.toml has in [document] what nothing shows: facts, "),
        (ENGLISH[ENGLISH.index("[hosted_page]") :], "", "da.toml has no table [hosted_page]. Copy"),
        ("[hosted_page]", "[mail]\n[hosted_page]", "da.toml has what no document shows: mail. Take"),
        ("[hosted_page]", "[document.hosted_page]", "da.toml has in [document] what nothing shows: hosted_page. Take"),
        ('due = "Date due"', 'due = "  "', "da.toml has no words for due in [document]: write"),
        ('due = "Date due"', "due = 1", "da.toml has no words for due in [document]: write"),
        ('due = "Date due"', "due = Date due", "da.toml is not TOML in UTF-8: "),
        ('due = "Date due"', 'due = "Date due"\ndue = "Due"', "da.toml is not TOML in UTF-8: "),
        ('"{amount} due {date}"', '"{amount} due"', "da.toml must have {amount} and {date} in headline_due_on of"),
        (
            '"{amount} due {date}"',
            '"{amount} due {day}"',
            "da.toml must have {amount} and {date} in headline_due_on of",
        ),
        (
            '"{amount} due {date}"',
            '"{amount} due {date"',
            "da.toml must have {amount} and {date} in headline_due_on of",
        ),
        (
            '"{amount} due {date}"',
            '"{amount!r} due {date}"',
            "da.toml must have {amount} and {date} in headline_due_on",
        ),
        ('"Date due"', '"Date {}"', "da.toml must have nothing in braces in due of [document]; it has: Date {}"),
    ],
)
def test_a_mistake_is_said_with_its_file_and_key(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in ENGLISH
    file = tmp_path / "da.toml"
    file.write_text(ENGLISH.replace(old, new, 1), "utf-8")
    with pytest.raises(LanguageError, match=f"^{re.escape(complaint)}"):
        read_language(file)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "da.toml"
    file.write_bytes(ENGLISH.replace("Date due", "Fällig").encode("latin-1"))
    with pytest.raises(LanguageError, match=r"^da\.toml is not TOML in UTF-8: "):
        read_language(file)


def test_the_translators_page_lists_the_files_and_what_is_in_braces() -> None:
    listed = dict(re.findall(r"^\| `(\w+)\.toml` \| (\w+) \|$", PAGE, re.MULTILINE))
    assert listed == {language: Locale.parse(language).english_name for language in languages()}
    keys = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*) \|$", PAGE, re.MULTILINE)
    braces = {
        key: frozenset(re.findall(r"`\{(\w+)\}`", filled_in))
        for row, filled_in in keys
        for key in row[1:-1].split("`, `")
    }
    assert braces == PLACEHOLDERS


def test_only_keys_that_exist_have_placeholders() -> None:
    assert PLACEHOLDERS.keys() <= {
        name for kind in (Words, HostedWords, DunningWords) for name in kind.__struct_fields__
    }


def test_a_language_added_as_the_page_says_is_spoken_and_nothing_else_is_touched(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "libs/billhook", tmp_path / "billhook", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "billhook/documents/languages"
    danish = (folder / "en.toml").read_text("utf-8").replace('"{amount} due {date}"', '"{amount} forfalder {date}"')
    danish = danish.replace('"This link does not work"', '"Dette link virker ikke"')
    (folder / "da.toml").write_text(danish, "utf-8")
    program = """
from billhook.documents.hosted_page import gone_html
from billhook.documents.view import shown
from billhook_testing import samples
document = shown(samples.invoice(samples.terms(3), locale="da-DK"))
print(document.language, document.headline)
print(gone_html("da", nonce="n"))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    first, _, page = told.stdout.partition("\n")
    assert re.fullmatch(r"da-DK .* forfalder 15\.\xa0marts\xa02026", first)
    assert "Dette link virker ikke" in page
