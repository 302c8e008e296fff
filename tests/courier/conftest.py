import pytest
from consumers.world import World
from store.databases import database, migrated

from billhook.store.database import Database

__all__ = ["database", "migrated", "world"]


@pytest.fixture
def world(database: Database) -> World:
    return World.begin(database)
