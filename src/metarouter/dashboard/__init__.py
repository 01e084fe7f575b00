"""Web pages over the store: a shell of static files, and what its charts show."""

__all__: list[str] = []
