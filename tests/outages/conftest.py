from store.databases import database, migrated

__all__ = ["database", "migrated"]
