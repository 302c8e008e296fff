import pytest
from consumers.world import World

from billhook.store.database import Database


@pytest.fixture
def world(database: Database) -> World:
    return World.begin(database)
