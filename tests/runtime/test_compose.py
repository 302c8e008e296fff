"""compose.yaml and the image name services, ports and settings: all of them are real, and no service lacks one."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from billhook.runtime.service import service_names
from billhook.runtime.settings import SETTINGS, default_port

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = {name: value for name, value in CONTAINERS.items() if value.get("command", [""])[0] == "run"}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def test_every_service_has_a_container_of_its_name() -> None:
    assert sorted(ROLES) == service_names(), "compose.yaml and services/ name other services"
    assert all(value["command"] == ["run", name] for name, value in ROLES.items())


@pytest.mark.parametrize("path", ["compose.yaml", "deploy/Dockerfile", "deploy/compose.env.example"])
def test_every_setting_that_is_named_is_one(path: str) -> None:
    named = set(re.findall(r"BILLHOOK_\w+", (ROOT / path).read_text()))
    assert named
    assert named <= {f"BILLHOOK_{name.upper()}" for name in SETTINGS}


@pytest.mark.parametrize("name", service_names())
def test_a_container_is_asked_for_its_health_where_its_service_answers(name: str) -> None:
    port = default_port(name)
    assert CONTAINERS[name]["environment"]["READY_URL"] == f"http://127.0.0.1:{port}/readyz"
    assert CONTAINERS[name]["healthcheck"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = (job["dns_sd_configs"][0] for job in scraped if job["job_name"] == name)
    assert (found["names"], found["port"]) == ([name], port)


def test_a_container_may_finish_what_it_has_in_hand() -> None:
    for value in ROLES.values():
        drain = float(value["environment"]["BILLHOOK_DRAIN_SECONDS"])
        assert float(value["stop_grace_period"].removesuffix("s")) >= drain + 5


def test_nothing_is_open_to_other_machines() -> None:
    published = [port for value in CONTAINERS.values() for port in value.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_services_start_on_a_migrated_schema_and_come_back() -> None:
    for value in ROLES.values():
        assert value["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert value["restart"] == "unless-stopped"
    assert CONTAINERS["migrate"]["command"] == ["migrate"]


ON_DISK = {"objects": "objects", "mailer": "mail"}
"""What keeps files under `var` where no other place is set, and the volume that they are in."""


def opened_by(service: str) -> set[str]:
    """What a service takes of its `Env`."""
    trees = [ast.parse(file.read_text()) for file in sorted((ROOT / "services" / service).rglob("*.py"))]
    attributes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {
        node.attr
        for node in attributes
        if isinstance(node.value, (ast.Name, ast.Attribute))
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr) in ("env", "_env")
    }


@pytest.mark.parametrize("name", service_names())
def test_who_keeps_files_shares_them_and_finds_them_after_a_restart(name: str) -> None:
    home = re.search(r"BILLHOOK_VAR=(\S+)", DOCKERFILE)
    assert home is not None
    needed = {f"{volume}:{home[1]}/{volume}" for opens, volume in ON_DISK.items() if opens in opened_by(name)}
    assert set(CONTAINERS[name].get("volumes", [])) == needed
    made = re.search(r"install -d -o billhook -g billhook (.+)", DOCKERFILE)
    assert made is not None
    assert {volume.partition(":")[2] for volume in needed} <= set(made[1].split())
    assert CONTAINERS[name]["environment"]["BILLHOOK_OBJECTS_URL"].endswith(f":-file://{home[1]}/objects}}")


def test_what_services_open_is_seen() -> None:
    assert opened_by("courier") >= {"database", "broker", "mailer", "objects", "reach"}
    assert "objects" not in opened_by("bookkeeper")


@pytest.mark.parametrize("name", [*service_names(), "migrate"])
def test_every_setting_can_be_given_by_env(name: str) -> None:
    """But for those that say where things are within the containers."""
    within = {name for name in SETTINGS if name.endswith("_port")} | {"host", "var"}
    given = {f"BILLHOOK_{setting.upper()}" for setting in SETTINGS.keys() - within}
    assert given <= CONTAINERS[name]["environment"].keys()
    for setting, value in CONTAINERS[name]["environment"].items():
        fixed = setting in ("BILLHOOK_DATABASE_URL", "BILLHOOK_QUEUE_URL", "BILLHOOK_DRAIN_SECONDS", "READY_URL")
        assert fixed or value is None or value.startswith("${"), f"{setting} cannot be set"


def test_nothing_takes_all_memory_or_fills_the_disk_with_its_log() -> None:
    for value in CONTAINERS.values():
        assert re.fullmatch(r"\d+[mg]", value["mem_limit"])
        assert value["logging"]["options"].keys() >= {"max-size", "max-file"}


def test_images_are_the_same_tomorrow() -> None:
    images = [value["image"] for value in CONTAINERS.values() if value["image"] != "billhook"]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(images) >= 4
    for image in images:
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image), f"{image} names no digest"


def test_the_image_has_letters_for_any_script_and_for_emoji() -> None:
    assert {"fonts-noto-core", "fonts-noto-cjk", "fonts-noto-color-emoji", "fonts-symbola"} <= set(DOCKERFILE.split())


def test_grafana_finds_its_dashboards_and_prometheus_its_rules() -> None:
    provisioned = ROOT / "deploy" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioned / "dashboards" / "billhook.yml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in CONTAINERS["grafana"]["volumes"]
    (source,) = yaml.safe_load((provisioned / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    boards = [json.loads(file.read_text()) for file in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")]
    asked = {place["datasource"]["uid"] for board in boards for panel in board["panels"] for place in _asking(panel)}
    assert asked == {source["uid"]}, "a panel asks a source that Grafana does not have"
    assert len({board["uid"] for board in boards}) == len(boards)
    assert "./deploy/prometheus:/etc/prometheus:ro" in CONTAINERS["prometheus"]["volumes"]


def _asking(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel, *panel["targets"]]


def test_nobody_signs_in_to_grafana_with_the_password_that_everybody_knows() -> None:
    """An empty one counts as none there, and without one the admin's is `admin`."""
    said = CONTAINERS["grafana"]["environment"]
    assert said["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == said["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in said


def test_every_volume_that_is_mounted_is_declared() -> None:
    mounted = {volume.partition(":")[0] for value in CONTAINERS.values() for volume in value.get("volumes", [])}
    assert {name for name in mounted if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_no_secret_stands_in_the_file() -> None:
    for value in CONTAINERS.values():
        for name, setting in value.get("environment", {}).items():
            if re.search("PASSWORD|KEY", name):
                assert setting is None or setting.startswith("${")


def test_the_image_is_built_by_the_same_uv_as_a_checkout() -> None:
    chosen = re.search(r"UV_VERSION=(\S+)", (ROOT / "deploy" / "setup.sh").read_text())
    assert chosen is not None
    assert f"uv=={chosen[1]}" in DOCKERFILE
