"""What the gateway remembers: decisions, feedback, keys and an audit trail.

Tables are SQLAlchemy Core, their versions alembic migrations, the default a
SQLite file in WAL mode, PostgreSQL for several processes. Decisions are written
in batches by a thread of their own, off the path of requests; feedback is
written before it is acknowledged. Both wait on the disk while the database is
down (docs/store.md).
"""
