"""What the gateway remembers: decisions, feedback, keys and an audit trail.

Tables are SQLAlchemy Core, their versions alembic migrations, the default a
SQLite file in WAL mode. Decisions are written in batches by a thread of their
own, off the path of requests; feedback is written before it is acknowledged.
"""
