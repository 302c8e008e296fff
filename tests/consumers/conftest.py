import pytest
from consumers.reconciling import shop
from consumers.world import World
from receivers.node_receiver import node_project

from billhook.store.database import Database

__all__ = ["node_project", "shop", "world"]


@pytest.fixture
def world(database: Database) -> World:
    return World.begin(database)
