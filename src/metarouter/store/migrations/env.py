"""Run by alembic with the connection that :func:`metarouter.store.database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from metarouter.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
