"""What alembic runs: the revisions, on the connection of the caller."""

from alembic import context

from agent.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
