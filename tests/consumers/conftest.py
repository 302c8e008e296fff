import pytest
from consumers.world import World
from receivers.node_receiver import node_project

from billhook.store.database import Database

__all__ = ["node_project", "world"]


@pytest.fixture
def world(database: Database) -> World:
    return World.begin(database)
