"""compose.yaml and the image name services, ports and settings: all of them are real."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from billhook.runtime.service import service_names
from billhook.runtime.settings import Settings, default_port

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
    assert named <= {f"BILLHOOK_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", service_names())
def test_a_container_is_asked_for_its_health_where_its_service_answers(name: str) -> None:
    port = default_port(name)
    assert CONTAINERS[name]["environment"]["READY_URL"] == f"http://127.0.0.1:{port}/readyz"
    assert CONTAINERS[name]["healthcheck"]
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
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


def test_who_reads_documents_finds_them_where_they_are_written() -> None:
    address = re.search(r"BILLHOOK_OBJECTS_URL=file://(\S+)", DOCKERFILE)
    assert address is not None
    for name in ("invoicer", "desk"):
        assert CONTAINERS[name]["volumes"] == [f"objects:{address[1]}"]
    assert f"file://{address[1]}" in CONTAINERS["desk"]["environment"]["BILLHOOK_OBJECTS_URL"]


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
