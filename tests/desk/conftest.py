from desk.world import clock, desk, world
from store.databases import database, migrated

__all__ = ["clock", "database", "desk", "migrated", "world"]
