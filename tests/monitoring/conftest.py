from __future__ import annotations

from collections.abc import Iterator

import pytest
from monitoring.installation import Installation, installed
from monitoring.prometheus import Prometheus, prometheus_server, tool

from billhook_testing.servers import PostgresServer, ValkeyServer
from services.relay import exporter


@pytest.fixture(scope="session")
def promtool() -> str:
    found = tool("promtool")
    if found is None:
        pytest.skip("promtool is not there: sh deploy/setup.sh prometheus")
    return found


@pytest.fixture(scope="module")
def installation(
    promtool: str,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: PostgresServer,
    postgres_template: str,
    valkey: ValkeyServer,
) -> Iterator[Installation]:
    url = postgres.create_database(postgres_template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "EVERY_SECONDS", 0.25)
        patch.setattr(exporter, "MOST_SHARE", 1.0)
        with installed(tmp_path_factory.mktemp("var"), url, valkey.port) as running:
            yield running


@pytest.fixture(scope="module")
def prometheus(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    ports = {name: process.port for name, process in installation.processes.items()}
    with prometheus_server(tmp_path_factory.mktemp("prometheus"), ports) as server:
        yield server
