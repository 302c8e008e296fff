"""The rules as promtool and a reader of them see them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from monitoring.prometheus import DEPLOYED, ROOT, RULES

HERE = Path(__file__).parent
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS = [
    rule
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
HEADINGS = ["Meaning", "Impact", "First three looks", "Safe actions", "Escalation"]


def test_they_are_rules_and_fire_and_clear_when_they_should(promtool: str) -> None:
    checked = subprocess.run([promtool, "check", "rules", *RULES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = sorted(HERE.glob("*.test.yml"))
    tested = subprocess.run([promtool, "test", "rules", *tests], cwd=HERE, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_firing() -> None:
    tested = "".join(path.read_text() for path in HERE.glob("*.test.yml"))
    assert not {rule["alert"] for rule in ALERTS if rule["alert"] not in tested}


@pytest.mark.parametrize("name", sorted({rule["alert"] for rule in ALERTS}))
def test_an_alert_says_how_grave_it_is_and_what_to_do(name: str) -> None:
    for rule in (rule for rule in ALERTS if rule["alert"] == name):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == HEADINGS
    looks = text.partition("## First three looks")[2].partition("##")[0]
    assert re.findall(r"^(\d)\. ", looks, re.M) == ["1", "2", "3"]


def test_no_page_is_of_an_alert_that_is_gone() -> None:
    assert {path.stem for path in RUNBOOKS.glob("Billhook*.md")} == {rule["alert"] for rule in ALERTS}


def test_prometheus_is_told_of_all_rules() -> None:
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    assert config["rule_files"] == ["/etc/prometheus/rules/*.yml"]
