from cli.shell import shell
from store.databases import database, migrated

__all__ = ["database", "migrated", "shell"]
