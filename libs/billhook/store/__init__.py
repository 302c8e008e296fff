"""The ledger: SQLAlchemy Core on SQLite and PostgreSQL. All SQL of billhook is in this package.

One file a subject, its tables beside its queries. Every function takes the transaction it belongs to.
"""
