from store.databases import blank_url, database, migrated, postgres_database

__all__ = ["blank_url", "database", "migrated", "postgres_database"]
