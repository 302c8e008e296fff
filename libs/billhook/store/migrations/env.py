"""Run by Alembic inside the transaction that `billhook.store.migrate` hands over, and ended by it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
