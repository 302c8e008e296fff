from desk.world import desk, world
from store.databases import database, migrated

__all__ = ["database", "desk", "migrated", "world"]
