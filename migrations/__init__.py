"""Alembic: the schema's history. `thoraq-admin migrate` runs it."""
